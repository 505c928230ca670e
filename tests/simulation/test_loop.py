import asyncio
from collections.abc import Iterator

import pytest

from tests.simulation.loop import SimulationLoop, Spinning


@pytest.fixture
def loop() -> Iterator[SimulationLoop]:
    loop = SimulationLoop(1)
    yield loop
    loop.dispose()


def test_time_passes_only_when_nothing_can_run(loop: SimulationLoop) -> None:
    seen = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((seconds, loop.time()))

    for seconds in (3600.0, 0.5, 1.0):
        loop.spawn(loop.world, sleeper(seconds))
    loop.run_until(3600.0)
    assert seen == [(0.5, 0.5), (1.0, 1.0), (3600.0, 3600.0)]


def test_one_process_runs_its_callbacks_in_order_and_several_interleave(loop: SimulationLoop) -> None:
    seen: list[tuple[str, int]] = []
    processes = [loop.new_process(name) for name in "ab"]
    for number in range(20):
        for process in processes:
            loop.call_soon(seen.append, (process.name, number), context=process.context)
    loop.run_until(0.0)
    for name in "ab":
        assert [number for process, number in seen if process == name] == list(range(20))
    names = [name for name, _ in seen]
    assert names not in (["a"] * 20 + ["b"] * 20, ["a", "b"] * 20)


def test_what_a_task_starts_belongs_to_its_process_and_dies_with_it(loop: SimulationLoop) -> None:
    seen: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("woke up")
        finally:
            seen.append("cleaned up")

    async def parent() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    process = loop.new_process("victim")
    loop.spawn(process, parent())
    loop.run_until(0.5)
    loop.kill(process)
    loop.run_until(5.0)
    assert seen == []
    loop.dispose()
    assert seen == ["cleaned up"]


def test_a_fuse_kills_between_two_callbacks(loop: SimulationLoop) -> None:
    process, deaths = loop.new_process("victim"), []
    process.on_death = lambda: deaths.append(steps)
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    loop.spawn(process, count())
    process.fuse = 7
    loop.run_until(1.0)
    assert (steps, deaths) == (7, [7])


def test_a_stopped_process_goes_on_where_it_was(loop: SimulationLoop) -> None:
    process, seen = loop.new_process("stopped"), []

    async def tick() -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            seen.append(loop.time())

    loop.spawn(process, tick())
    loop.run_until(1.5)
    loop.stop_process(process)
    loop.run_until(10.0)
    assert seen == [1.0]
    loop.continue_process(process)
    loop.run_until(20.0)
    assert seen == [1.0, 10.0, 11.0, 12.0]


def test_a_loop_that_spins_is_reported(loop: SimulationLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    loop.spawn(loop.world, spin())
    with pytest.raises(Spinning):
        loop.run_until(1.0)


def test_an_error_that_nobody_handles_is_kept(loop: SimulationLoop) -> None:
    async def fail() -> None:
        raise ValueError("why")

    async def look() -> None:
        with pytest.raises(ValueError, match="why"):
            await asyncio.create_task(fail())

    loop.spawn(loop.world, look())
    loop.run_until(1.0)
    assert loop.unseen_errors() == []
    loop.spawn(loop.world, fail())
    loop.run_until(2.0)
    assert [error[-24:] for error in loop.unseen_errors()] == ["raised ValueError('why')"]
