"""Group commit over a transaction that the test ends when it likes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.sql.errors import NoAnswer
from chatflow.adapters.sql.group_commit import GroupCommit
from chatflow.ports.errors import RowRejected, StoreUnavailable

FULL = 10


def alone(value):
    raise AssertionError("the fake transaction does the work")


def together(calls):
    raise AssertionError("the fake transaction does the work")


def others(calls):
    raise AssertionError("the fake transaction does the work")


class Transactions:
    """Each transaction waits until it is told how to end."""

    def __init__(self) -> None:
        self.running: list[tuple[list[object], asyncio.Future[None]]] = []
        self.poison: set[object] = set()

    async def run(self, fn, args):
        values = [call[0] for call in args[0]] if fn is not alone else [args[0]]
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append((values, end))
        try:
            await end
        finally:
            self.running.remove((values, end))
        if self.poison & set(values):
            raise RowRejected("poison")
        results = [f"{value} stored" for value in values]
        return results[0] if fn is alone else results

    @property
    def values(self) -> list[list[object]]:
        return [values for values, _ in self.running]

    async def end(self, error: Exception | None = None) -> None:
        """End the oldest one."""
        _, future = self.running[0]
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def transactions() -> Transactions:
    return Transactions()


@pytest.fixture
async def groups(transactions: Transactions) -> AsyncIterator[GroupCommit]:
    group_commit = GroupCommit(transactions.run, lanes=3, full=FULL)
    yield group_commit
    await group_commit.aclose()


async def written(groups: GroupCommit, *values, weight: int = 1, by=together) -> "list[asyncio.Task[str]]":
    tasks = [asyncio.create_task(groups.write(alone, (value,), by, weight)) for value in values]
    await settle()
    return tasks


async def test_a_call_that_finds_nothing_under_way_starts_at_once_and_alone(groups, transactions):
    (first,) = await written(groups, "a")
    assert transactions.values == [["a"]]
    await transactions.end()
    assert await first == "a stored"


async def test_a_call_that_comes_the_moment_another_has_ended_starts_too(groups, transactions):
    both = asyncio.create_task(write_two(groups))
    await settle()
    await transactions.end()
    assert transactions.values == [["b"]]
    await transactions.end()
    assert await both == ["a stored", "b stored"]


async def write_two(groups: GroupCommit) -> list[str]:
    return [await groups.write(alone, (value,), together, 1) for value in ("a", "b")]


async def test_calls_that_come_meanwhile_go_together_and_each_gets_its_own_result(groups, transactions):
    tasks = await written(groups, "a")
    tasks += await written(groups, "b", "c", "d")
    assert transactions.values == [["a"]]
    await transactions.end()
    assert transactions.values == [["b", "c", "d"]]
    await transactions.end()
    assert [await task for task in tasks] == ["a stored", "b stored", "c stored", "d stored"]


class Pauses:
    """Time that passes when the test says so, and pauses that end then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asleep: list[tuple[float, asyncio.Event]] = []

    async def sleep(self, pause_s: float) -> None:
        event = asyncio.Event()
        self.asleep.append((self.now + pause_s, event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, event in self.asleep:
            if until <= self.now + 1e-9:
                event.set()
        self.asleep = [each for each in self.asleep if not each[1].is_set()]
        await settle()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def spaced(transactions: Transactions, pauses: Pauses) -> AsyncIterator[GroupCommit]:
    group_commit = GroupCommit(
        transactions.run, lanes=3, full=FULL, apart_s=0.005, clock=lambda: pauses.now, sleep=pauses.sleep
    )
    yield group_commit
    await group_commit.aclose()


async def test_small_transactions_start_some_time_apart_and_gather_what_comes_meanwhile(spaced, transactions, pauses):
    await written(spaced, "a")
    await pauses.advance(0.002)
    await transactions.end()
    await written(spaced, "b")
    assert transactions.values == []
    await pauses.advance(0.002)
    await written(spaced, "c")
    assert transactions.values == []
    await pauses.advance(0.001)
    assert transactions.values == [["b", "c"]]


async def test_a_call_after_a_quiet_while_starts_at_once(spaced, transactions, pauses):
    await written(spaced, "a")
    await transactions.end()
    await pauses.advance(0.005)
    await written(spaced, "b")
    assert transactions.values == [["b"]]


async def test_what_outlasts_the_time_apart_is_followed_at_once(spaced, transactions, pauses):
    await written(spaced, "a")
    await written(spaced, "b")
    await pauses.advance(0.02)
    await transactions.end()
    assert transactions.values == [["b"]]


async def test_enough_for_a_transaction_does_not_wait_for_the_time_apart(spaced, transactions):
    await written(spaced, "a")
    await transactions.end()
    await written(spaced, "b")
    await written(spaced, "c", weight=FULL)
    assert transactions.values == [["b", "c"]]


async def test_a_caller_that_gives_up_during_the_pause_is_left_out(spaced, transactions, pauses):
    await written(spaced, "a")
    await transactions.end()
    (given_up,) = await written(spaced, "b")
    given_up.cancel()
    await settle()
    await pauses.advance(0.005)
    assert transactions.values == []
    await pauses.advance(0.005)
    await written(spaced, "c")
    assert transactions.values == [["c"]]


async def test_enough_for_a_transaction_of_its_own_gets_one_up_to_the_limit(groups, transactions):
    await written(groups, "a")
    await written(groups, "b", "c", weight=FULL // 2)
    assert transactions.values == [["a"], ["b", "c"]]
    await written(groups, "d", weight=FULL)
    await written(groups, "e", weight=FULL)
    assert transactions.values == [["a"], ["b", "c"], ["d"]]
    await transactions.end()
    assert transactions.values == [["b", "c"], ["d"], ["e"]]


async def test_a_group_is_not_made_larger_than_full(groups, transactions):
    await written(groups, "a")
    groups.lanes = 1
    await written(groups, "b", "c", "d", weight=FULL // 2)
    await transactions.end()
    assert transactions.values == [["b", "c"]]


async def test_one_that_is_rejected_costs_its_neighbours_nothing(groups, transactions):
    transactions.poison.add("c")
    tasks = await written(groups, "a")
    tasks += await written(groups, "b", "c", "d")
    for expected in (["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]):
        assert transactions.values == [expected]
        await transactions.end()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[2], RowRejected)
    assert outcomes[:2] + outcomes[3:] == ["a stored", "b stored", "d stored"]


async def test_a_lost_connection_is_one_failure_and_the_others_try_again(groups, transactions):
    (first,) = await written(groups, "a")
    tasks = await written(groups, "b", "c", "d")
    await transactions.end()
    await transactions.end(StoreUnavailable("cut"))
    assert tasks[0].done()
    assert transactions.values == [["c", "d"]]
    await transactions.end()
    outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert isinstance(outcomes[1], StoreUnavailable)
    assert outcomes[2:] == ["c stored", "d stored"]


async def test_a_server_that_does_not_answer_is_not_asked_for_each_in_turn(groups, transactions):
    (first,) = await written(groups, "a")
    tasks = await written(groups, "b", "c")
    await transactions.end()
    await transactions.end(NoAnswer("too late"))
    outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, NoAnswer, NoAnswer]


async def test_who_cancels_before_his_turn_is_left_out(groups, transactions):
    await written(groups, "a")
    tasks = await written(groups, "b", "c")
    tasks[0].cancel()
    await settle()
    await transactions.end()
    assert transactions.values == [["c"]]


async def test_who_cancels_under_way_takes_nobody_along(groups, transactions):
    await written(groups, "a")
    tasks = await written(groups, "b", "c")
    await transactions.end()
    tasks[0].cancel()
    await settle()
    await transactions.end()
    assert await tasks[1] == "c stored"


async def test_calls_that_cannot_go_together_do_not(groups, transactions):
    await written(groups, "a")
    await written(groups, "b")
    await written(groups, "c", by=others)
    await transactions.end()
    assert transactions.values == [["b"]]
    await transactions.end()
    assert transactions.values == [["c"]]


async def test_closing_tells_everybody(groups, transactions):
    tasks = await written(groups, "a")
    tasks += await written(groups, "b", "c")
    await groups.aclose()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert transactions.values == []


async def test_calls_that_go_with_nobody_run_alone_in_their_turn(groups, transactions):
    await written(groups, "a")
    await written(groups, "b", "c", by=None)
    for value in ("a", "b", "c"):
        assert transactions.values == [[value]]
        await transactions.end()


async def test_finishing_waits_for_what_runs_and_for_what_waits(groups, transactions):
    tasks = await written(groups, "a")
    tasks += await written(groups, "b")
    finishing = asyncio.create_task(groups.finish())
    await settle()
    await transactions.end()
    assert not finishing.done()
    await transactions.end()
    await asyncio.wait_for(finishing, 5)
    assert [await task for task in tasks] == ["a stored", "b stored"]
