"""Tasks that are told to end do, also when the first word was lost."""

import asyncio

import pytest

from chatflow.domain.resilience.tasks import end


async def for_ever(lost: int = 0) -> None:
    """Runs on after as many cancellations as this."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if lost == 0:
                raise
            lost -= 1


async def test_tasks_have_ended_when_it_returns() -> None:
    tasks = [asyncio.create_task(for_ever()) for _ in range(3)]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    task = asyncio.create_task(for_ever(lost=2))
    await asyncio.sleep(0)
    await end([task], again_s=0.01)
    assert task.cancelled()


async def test_a_task_that_cleans_up_is_not_interrupted() -> None:
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            cleaned = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await end([task])
    assert cleaned


async def test_what_has_ended_keeps_its_result() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    failed, done = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0, "result"))
    await asyncio.wait([failed, done])
    await end([failed, done])
    await end([])
    assert done.result() == "result"
    with pytest.raises(ValueError, match="mine"):
        failed.result()
