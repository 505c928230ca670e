"""Many ask, one reads; nobody suffers for another's misfortune."""

import asyncio

import pytest

from chatflow.domain.resilience.single_flight import SingleFlight


class Work:
    """Counts its runs and ends when told to, with a result or an error for each run."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.runs = 0
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> object:
        outcome = self.outcomes[min(self.runs, len(self.outcomes) - 1)]
        self.runs += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_a_thousand_callers_of_one_key_cost_one_read():
    flights, work = SingleFlight(), Work("rows")
    callers = [asyncio.create_task(flights.run("k", work)) for _ in range(1000)]
    await turns()
    work.gate.set()
    assert await asyncio.gather(*callers) == ["rows"] * 1000
    assert work.runs == 1
    assert len(flights) == 0


async def test_different_keys_do_not_wait_for_each_other():
    flights, slow, quick = SingleFlight(), Work("slow"), Work("quick")
    waiting = asyncio.create_task(flights.run("a", slow))
    quick.gate.set()
    assert await flights.run("b", quick) == "quick"
    slow.gate.set()
    assert await waiting == "slow"


async def test_a_caller_after_the_end_reads_anew():
    flights, work = SingleFlight(), Work("old", "new")
    work.gate.set()
    assert await flights.run("k", work) == "old"
    assert await flights.run("k", work) == "new"


async def test_a_cancelled_leader_does_not_take_its_followers_along():
    flights, work = SingleFlight(), Work("rows")
    leader = asyncio.create_task(flights.run("k", work))
    await turns()
    followers = [asyncio.create_task(flights.run("k", work)) for _ in range(3)]
    await turns()
    leader.cancel()
    await turns()
    work.gate.set()
    assert await asyncio.gather(*followers) == ["rows"] * 3
    assert leader.cancelled()
    assert (work.runs, work.cancelled) == (1, 0)


async def test_the_read_stops_when_nobody_waits_any_more():
    flights, work = SingleFlight(), Work("rows")
    callers = [asyncio.create_task(flights.run("k", work)) for _ in range(2)]
    await turns()
    for caller in callers:
        caller.cancel()
    await turns()
    assert work.cancelled == 1
    assert len(flights) == 0


async def test_a_new_caller_does_not_join_a_read_that_is_being_stopped():
    flights, work = SingleFlight(), Work("first", "second")
    first = asyncio.create_task(flights.run("k", work))
    await turns()
    first.cancel()
    second = asyncio.create_task(flights.run("k", work))
    await turns()
    work.gate.set()
    assert await second == "second"


async def test_followers_of_a_failed_read_share_one_more():
    flights, work = SingleFlight(), Work(OSError("down"), "rows")
    callers = [asyncio.create_task(flights.run("k", work)) for _ in range(5)]
    await turns()
    work.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, str, str, str, str]
    assert work.runs == 2


async def test_a_lasting_failure_reaches_everyone_after_two_reads():
    flights, work = SingleFlight(), Work(OSError("down"))
    callers = [asyncio.create_task(flights.run("k", work)) for _ in range(50)]
    await turns()
    work.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, OSError) for result in results)
    assert work.runs == 2
    with pytest.raises(OSError):
        await flights.run("k", work)
