import pytest

from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import PAUSE_STEP_S, Debt, Pacer
from chatflow.domain.session.rates import (
    PARTIES_MAX,
    PER_ADDRESS,
    PER_CONNECTION,
    PER_USER,
    SENDS_PER_LOOK,
    Action,
    RateLimiter,
    RateLimits,
    Rates,
    TokenBucket,
    says_something,
)
from tests.harness.clock import FakeClock

NONE = Rates(0, 0, 0, 0)
ONE_A_SECOND = Rates(1, 1, 1, 1)
ELSEWHERE = "192.0.2.7"


def limiter(clock: FakeClock, connection: Rates = NONE, user: Rates = NONE, address: Rates = NONE) -> RateLimiter:
    return RateLimiter(clock, SessionMetrics(), connection, user, address, burst_s=10.0, abuse_s=30.0)


def limits(each: RateLimiter, address: str = "127.0.0.1") -> RateLimits:
    return each.connection(address, Debt(Pacer(each.clock)))


def test_a_bucket_holds_a_burst_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst_s=10.0)
    assert bucket.spend(20, 100.0) <= 0
    assert bucket.spend(1, 100.0) == pytest.approx(0.5)
    assert bucket.spend(1, 101.0) <= 0
    assert bucket.spend(20, 1_000.0) <= 0  # no more is saved up than it holds
    assert bucket.spend(1, 1_000.0) > 0


@pytest.mark.parametrize("action", list(Action))
def test_over_its_rate_a_connection_is_not_read_from_until_it_is_paid_for(action: Action) -> None:
    clock = FakeClock()
    connection = limits(limiter(clock, ONE_A_SECOND))
    assert connection.spend(action, 10) <= 0
    assert not connection.debt.is_due
    connection.spend(action, 3)
    assert connection.debt.is_due
    while connection.debt.is_due:
        wait_s = connection.debt.reserve()
        assert 0 < wait_s <= PAUSE_STEP_S
        clock.advance(wait_s)
        connection.debt.paid()
    assert clock.now == pytest.approx(1_003.0)
    assert connection.limiter.metrics.rate_pauses == 1


def test_no_limit_is_no_limit() -> None:
    connection = limits(limiter(FakeClock()), ELSEWHERE)
    assert connection.spend(Action.SEND, 10**9) == 0.0
    assert not connection.debt.is_due


def test_connections_of_one_address_share_its_buckets_and_loopback_has_none() -> None:
    each = limiter(FakeClock(), address=ONE_A_SECOND)
    for address, is_paused in ((ELSEWHERE, True), ("127.0.0.1", False), ("::1", False), ("", False)):
        one, other = limits(each, address), limits(each, address)
        one.spend(Action.JOIN, 10)
        other.spend(Action.JOIN)
        assert other.debt.is_due is is_paused


def test_connections_of_one_user_share_its_buckets_across_reconnects() -> None:
    each = limiter(FakeClock(), user=ONE_A_SECOND)
    one, stranger, again = limits(each), limits(each), limits(each)
    one.enter(7)
    one.spend(Action.ERROR, 10)
    stranger.enter(8)
    stranger.spend(Action.ERROR)
    assert not stranger.debt.is_due
    again.enter(7)
    again.enter(7)  # a token was refreshed
    assert again.spend(Action.ERROR) == pytest.approx(1.0)


def test_no_more_users_are_remembered_than_may_be() -> None:
    each = limiter(FakeClock(), user=ONE_A_SECOND)
    for user_id in range(PARTIES_MAX + 10):
        each.user(user_id)
    assert len(each._parties["user"]) == PARTIES_MAX


@pytest.mark.parametrize("action", [Action.JOIN, Action.PAGE, Action.ERROR])
def test_only_who_goes_on_and_on_is_closed(action: Action) -> None:
    clock, closed = FakeClock(), []
    connection = limits(limiter(clock, ONE_A_SECOND))
    connection.abused = lambda: closed.append(clock.now)
    connection.spend(action, 10 + 25)  # one burst
    clock.advance(100.0)
    assert not closed
    while not closed:
        connection.spend(action, 2)
        clock.advance(1.0)
        assert clock.now < 1_300.0
    assert connection.limiter.metrics.rate_abusers_dropped == 1


def test_who_sends_too_many_messages_is_slowed_and_never_closed() -> None:
    clock, closed = FakeClock(), []
    connection = limits(limiter(clock, ONE_A_SECOND))
    connection.abused = lambda: closed.append(clock.now)
    for _ in range(1_000):
        connection.spend(Action.SEND, 2)
        clock.advance(1.0)
    assert not closed
    assert connection.debt.is_due


def test_a_load_client_of_700_connections_from_one_address_is_not_slowed_by_default() -> None:
    clock = FakeClock()
    each = RateLimiter(clock, SessionMetrics(), PER_CONNECTION, PER_USER, PER_ADDRESS)
    connections = [limits(each, ELSEWHERE) for _ in range(700)]
    for second in range(60):
        for at, connection in enumerate(connections):
            if second == 0:
                connection.spend(Action.JOIN, 20)
                connection.enter(at)
            for _ in range(28 // SENDS_PER_LOOK + 1):
                connection.sent()
            assert not connection.debt.is_due
        clock.advance(1.0)
    assert each.metrics.rate_pauses == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("fe80::1%eth0", True),
        ("127.0.0.2", False),
        ("::1", False),
        ("", False),
    ],
)
def test_an_address_says_something_if_it_is_known_and_not_this_machines(address: str, expected: bool) -> None:
    assert says_something(address) is expected
