"""Whose tokens count as revoked, and how a process learns of it."""

import asyncio

import pytest

from chatflow.domain.identity.revocation_watch import OVERLAP, PAGE, RevocationWatch
from chatflow.domain.identity.revoked import Revoked
from chatflow.domain.resilience.tasks import end
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.identity import Principal
from chatflow.ports.revocations import Revocation
from tests.harness.waiting import eventually

NOW_S = 1_795_000_000
NOW_US = NOW_S * 1_000_000


def revoke(
    user_id: int | None = None,
    token_id: str | None = None,
    *,
    at_s: float = NOW_S,
    lasts_s: float = 100,
    number: int = 0,
) -> Revocation:
    at_us = int(at_s * 1_000_000)
    return Revocation(user_id, token_id, at_us, at_us + int(lasts_s * 1_000_000), "cli:ada", number)


def bearer(user_id: int = 7, issued_at: float = NOW_S - 60.0, token_id: str | None = "t1") -> Principal:
    return Principal(user_id, "ada", issued_at=issued_at, token_id=token_id)


def knowing(*revocations: Revocation, leeway_s: float = 0.0) -> Revoked:
    revoked = Revoked(leeway_s)
    for revocation in revocations:
        revoked.add(revocation)
    return revoked


def test_every_token_that_a_user_was_issued_before_is_revoked_and_no_later_one():
    revoked = knowing(revoke(7))
    assert revoked.is_revoked(bearer())
    assert revoked.is_revoked(bearer(token_id=None))
    assert revoked.is_revoked(bearer(issued_at=NOW_S))
    assert not revoked.is_revoked(bearer(issued_at=NOW_S + 1.0))
    assert not revoked.is_revoked(bearer(user_id=8))


def test_a_token_that_does_not_say_when_it_was_issued_is_revoked_with_its_user():
    revoked = knowing(revoke(7))
    assert revoked.is_revoked(bearer(issued_at=0.0))
    assert not revoked.is_revoked(bearer(user_id=8, issued_at=0.0))


def test_clocks_may_differ_by_the_leeway():
    revoked = knowing(revoke(7), leeway_s=30.0)
    assert revoked.is_revoked(bearer(issued_at=NOW_S + 30.0))
    assert not revoked.is_revoked(bearer(issued_at=NOW_S + 31.0))


def test_one_token_is_revoked_for_whoever_bears_it_or_for_one_user():
    anybodys, adas = knowing(revoke(token_id="t1")), knowing(revoke(7, "t1"))
    assert anybodys.is_revoked(bearer(issued_at=NOW_S + 60.0))
    assert anybodys.is_revoked(bearer(user_id=8))
    assert adas.is_revoked(bearer())
    for revoked in (anybodys, adas):
        assert not revoked.is_revoked(bearer(token_id="t2"))
        assert not revoked.is_revoked(bearer(token_id=None))
    assert not adas.is_revoked(bearer(user_id=8))


def test_of_two_for_one_user_the_later_time_and_the_later_end_count():
    revoked = knowing(revoke(7, lasts_s=1000))
    assert not revoked.add(revoke(7, at_s=NOW_S - 10))
    assert revoked.add(revoke(7, at_s=NOW_S + 10, lasts_s=1))
    assert len(revoked) == 1
    assert revoked.is_revoked(bearer(issued_at=NOW_S + 10.0))
    revoked.forget(NOW_US + 999 * 1_000_000)
    assert revoked.is_revoked(bearer())


def test_what_has_expired_is_forgotten():
    revoked = knowing(revoke(7), revoke(token_id="t1", lasts_s=50))
    revoked.forget(NOW_US + 50 * 1_000_000)
    assert list(revoked) == [revoke(7)]
    revoked.forget(NOW_US + 100 * 1_000_000)
    assert len(revoked) == 0


class ScriptedLog:
    """A log whose rows appear when the test says so, and which may be away."""

    def __init__(self) -> None:
        self.rows: list[Revocation] = []
        self.is_away = False
        self.asked: list[int] = []

    async def append(self, revocation: Revocation, *, limit: int) -> int:
        raise NotImplementedError

    async def after(self, revocation_id: int, *, limit: int) -> list[Revocation]:
        self.asked.append(revocation_id)
        if self.is_away:
            raise StoreUnavailable("away")
        return sorted((row for row in self.rows if row.id > revocation_id), key=lambda row: row.id)[:limit]


@pytest.fixture
def log() -> ScriptedLog:
    return ScriptedLog()


@pytest.fixture
def watch(log: ScriptedLog) -> RevocationWatch:
    return RevocationWatch(log, Revoked(), lambda: NOW_US, 0.001)


async def test_the_first_read_takes_everything_and_a_later_one_what_is_new(log, watch):
    log.rows = [revoke(number, number=number) for number in range(1, 2 * PAGE + 2)]
    await watch.read()
    assert len(watch.revoked) == 2 * PAGE + 1
    assert log.asked == [0, PAGE, 2 * PAGE]
    log.rows.append(revoke(5_000_000, number=2 * PAGE + 2))
    await watch.read()
    assert log.asked[3:] == [2 * PAGE + 1 - OVERLAP]
    assert len(watch.revoked) == 2 * PAGE + 2


async def test_one_that_becomes_visible_behind_a_later_one_is_found(log, watch):
    log.rows = [revoke(8, number=11)]
    await watch.read()
    log.rows.append(revoke(7, number=10))
    await watch.read()
    assert watch.revoked.is_revoked(bearer())


async def test_sessions_are_ended_when_somebody_new_is_shut_out_and_not_again(log, watch):
    told: list[bool] = []
    watch.on_news.append(lambda: told.append(watch.revoked.is_revoked(bearer())))
    await watch.read()
    assert told == []
    log.rows = [revoke(7, number=1), revoke(9, at_s=NOW_S - 200, number=2)]
    for _ in range(3):
        await watch.read()
    assert told == [True]
    assert len(watch.revoked) == 1


async def test_while_the_store_is_away_what_is_known_holds_and_one_failure_is_told(log):
    failures: list[str] = []
    watch = RevocationWatch(log, Revoked(), lambda: NOW_US, 0.001, failed=lambda exc: failures.append(str(exc)))
    log.rows = [revoke(7, number=1)]
    await watch.read()
    log.is_away = True
    running = asyncio.create_task(watch.run())
    await eventually(lambda: watch.reads_failed > 2)
    assert watch.revoked.is_revoked(bearer())
    log.rows.append(revoke(8, number=2))
    log.is_away = False
    await eventually(lambda: watch.revoked.is_revoked(bearer(8)))
    await end([running])
    assert failures == ["away"]
    assert watch.counts() == {"revocation_reads_failed": watch.reads_failed}
