import asyncio

import pytest

from chatflow.adapters.websockets.turns import OnePerTurn, Replays, pay
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import BUSY_TRIFLE_S, SHARE, TRIFLE_S, WARY_S, Debt, Pacer
from chatflow.domain.session.rates import RateLimiter
from tests.harness.clock import FakeClock
from tests.unit.fakes import settle


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def pacer(clock):
    return Pacer(clock)


def test_work_has_its_share_of_the_time_and_no_more(pacer):
    assert pacer.reserve(0.01) == pytest.approx(0.01 / SHARE)


def test_time_in_which_nobody_waits_is_not_saved_up(pacer, clock):
    clock.advance(1_000.0)
    assert pacer.reserve(0.01) == pytest.approx(0.01 / SHARE)


def test_whoever_comes_next_waits_behind_those_before(pacer):
    assert [pacer.reserve(0.001) for _ in range(3)] == pytest.approx([n * 0.001 / SHARE for n in (1, 2, 3)])


def test_a_trifle_is_owed_without_waiting(pacer, clock):
    debt = Debt(pacer)
    debt.charge(TRIFLE_S)
    assert not debt.is_due
    debt.charge(TRIFLE_S / 10)
    assert debt.is_due


def test_less_is_owed_without_waiting_while_somebody_is_in_the_line(pacer, clock):
    pacer.reserve(0.001)
    debt = Debt(pacer)
    debt.charge(BUSY_TRIFLE_S)
    assert not debt.is_due
    debt.charge(BUSY_TRIFLE_S / 10)
    assert debt.is_due
    later = Debt(pacer)
    clock.advance(0.001 / SHARE)
    later.charge(TRIFLE_S)
    assert not later.is_due


def test_the_line_is_busy_until_all_work_in_it_is_paid_for(pacer, clock):
    assert not pacer.is_busy
    pacer.reserve(0.001)
    assert pacer.is_busy
    clock.advance(0.001 / SHARE)
    assert not pacer.is_busy


async def test_of_those_who_wait_to_pass_one_goes_on_in_each_turn():
    passed, turns = [], OnePerTurn()

    async def come(n):
        await turns.pass_through()
        passed.append(n)

    tasks = [asyncio.create_task(come(n)) for n in range(10)]
    seen = 0
    while len(passed) < 10:
        await asyncio.sleep(0)
        assert len(passed) <= seen + 1
        seen = len(passed)
    await asyncio.gather(*tasks)
    assert passed == list(range(10))


def test_a_trifle_is_forgiven_each_second(pacer, clock):
    debt = Debt(pacer)
    for _ in range(100):
        debt.charge(TRIFLE_S * 0.9)
        clock.advance(1.0)
    assert not debt.is_due


async def test_what_is_paid_is_owed_no_more(pacer, clock):
    debt = Debt(pacer)
    debt.charge(0.1)
    began = clock()
    await pay(debt, clock.sleep)
    assert clock() - began == pytest.approx(0.1 / SHARE)
    assert not debt.is_due


async def test_what_is_charged_while_it_pays_is_due_afterwards(pacer, clock):
    debt = Debt(pacer)
    debt.charge(0.1)
    paying = asyncio.create_task(pay(debt, clock.sleep))
    await asyncio.sleep(0)
    debt.charge(0.1)
    await paying
    assert debt.is_due


def test_who_owed_lately_is_watched_for_a_while(pacer, clock):
    debt = Debt(pacer)
    assert not debt.is_wary()
    debt.charge(0.1)
    clock.advance(WARY_S / 2)
    assert debt.is_wary()
    clock.advance(WARY_S)
    assert not debt.is_wary()


async def test_one_connection_has_one_place_in_the_line_for_all_its_replays(pacer):
    replays = Replays(pacer, RateLimiter(pacer.clock, SessionMetrics()).connection("", Debt(pacer)))
    pacer.reserve(1.0)
    tasks = [asyncio.create_task(replays.turn(100)) for _ in range(5)]
    await settle()
    free_at = pacer._free_at
    await settle()
    assert pacer._free_at == free_at
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
