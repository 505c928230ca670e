import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatflow.domain.resilience.circuit_breaker import BreakerState, CircuitBreaker, worst_state
from chatflow.ports.errors import CircuitOpen
from tests.harness.clock import FakeClock

FAILURES = 5
RESET_S = 15.0


def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(clock, failures=FAILURES, reset_s=RESET_S)


def opened(clock: FakeClock) -> CircuitBreaker:
    circuit = breaker(clock)
    for _ in range(FAILURES):
        circuit.allow()
        circuit.failure()
    return circuit


def test_a_closed_circuit_lets_everybody_through() -> None:
    circuit = breaker(FakeClock())
    for _ in range(100):
        circuit.allow()
    assert circuit.state is BreakerState.CLOSED
    assert circuit.retry_in_s() == 0.0


def test_exactly_five_consecutive_failures_open_the_circuit() -> None:
    circuit = breaker(FakeClock())
    assert [circuit.failure() for _ in range(5)] == [False, False, False, False, True]
    assert circuit.state is BreakerState.OPEN
    assert circuit.trips == 1


def test_a_success_in_between_starts_the_count_again() -> None:
    circuit = breaker(FakeClock())
    for _ in range(3):
        for _ in range(4):
            circuit.failure()
        circuit.success()
    assert circuit.state is BreakerState.CLOSED
    assert circuit.trips == 0


def test_an_open_circuit_says_when_to_try_again() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(4.0)
    with pytest.raises(CircuitOpen) as raised:
        circuit.allow()
    assert raised.value.retry_in_s == pytest.approx(11.0)
    assert raised.value.retryable
    assert circuit.retry_in_s() == pytest.approx(11.0)


def test_after_the_reset_one_probe_alone_goes_through() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(RESET_S)
    circuit.allow()
    assert circuit.state is BreakerState.HALF_OPEN
    for _ in range(10):
        with pytest.raises(CircuitOpen):
            circuit.allow()


def test_a_probe_that_succeeds_closes_the_circuit_with_a_fresh_count() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(RESET_S)
    circuit.allow()
    circuit.success()
    assert circuit.state is BreakerState.CLOSED
    assert [circuit.failure() for _ in range(5)] == [False, False, False, False, True]


def test_a_probe_that_fails_opens_the_circuit_for_another_reset() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(RESET_S)
    circuit.allow()
    assert circuit.failure()
    assert circuit.trips == 2
    clock.advance(RESET_S - 0.1)
    with pytest.raises(CircuitOpen):
        circuit.allow()
    clock.advance(0.2)
    circuit.allow()


def test_a_probe_that_never_reports_is_followed_by_another_one() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(RESET_S)
    circuit.allow()
    clock.advance(RESET_S)
    circuit.allow()
    with pytest.raises(CircuitOpen):
        circuit.allow()
    circuit.success()
    assert circuit.state is BreakerState.CLOSED


def test_failures_of_calls_from_before_the_trip_neither_trip_again_nor_prolong_it() -> None:
    clock = FakeClock()
    circuit = opened(clock)
    clock.advance(10.0)
    assert not circuit.failure()
    assert circuit.trips == 1
    clock.advance(5.0)
    circuit.allow()


def test_a_success_from_before_the_trip_does_not_close_an_open_circuit() -> None:
    circuit = opened(FakeClock())
    circuit.success()
    assert circuit.state is BreakerState.OPEN
    with pytest.raises(CircuitOpen):
        circuit.allow()


def test_a_sign_of_life_lets_one_probe_through_at_once() -> None:
    circuit = opened(FakeClock())
    circuit.probe_now()
    assert circuit.retry_in_s() == 0.0
    circuit.allow()
    assert circuit.state is BreakerState.HALF_OPEN
    circuit.probe_now()
    with pytest.raises(CircuitOpen):
        circuit.allow()


class Breaker(RuleBasedStateMachine):
    """Callers come one after the other; each reports, or is lost. The model knows only what was reported when."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.circuit = breaker(self.clock)
        self.failed_in_a_row = 0
        self.opened_at: float | None = None
        self.probe_at: float | None = None

    @property
    def refuses_until(self) -> float | None:
        since = self.opened_at if self.probe_at is None else self.probe_at
        return None if self.opened_at is None or since is None else since + RESET_S

    @rule(fate=st.sampled_from(["success", "failure", "failure", "lost"]))
    def call(self, fate: str) -> None:
        until = self.refuses_until
        if until is not None and self.clock.now < until:
            with pytest.raises(CircuitOpen) as raised:
                self.circuit.allow()
            assert raised.value.retry_in_s == pytest.approx(until - self.clock.now)
            return
        self.circuit.allow()
        if until is not None:
            self.probe_at = self.clock.now
        self.report(fate)

    @precondition(lambda self: self.probe_at is not None)
    @rule(fate=st.sampled_from(["success", "failure"]))
    def the_lost_probe_reports_late(self, fate: str) -> None:
        self.report(fate)

    def report(self, fate: str) -> None:
        if fate == "success":
            self.circuit.success()
            self.failed_in_a_row, self.opened_at, self.probe_at = 0, None, None
        elif fate == "failure":
            self.failed_in_a_row += 1
            trips = self.probe_at is not None or self.failed_in_a_row == FAILURES
            assert self.circuit.failure() is trips
            if trips:
                self.opened_at, self.probe_at = self.clock.now, None

    @rule()
    def the_dependency_shows_a_sign_of_life(self) -> None:
        is_probing = self.probe_at is not None
        self.circuit.probe_now()
        if self.opened_at is not None and not is_probing:
            assert self.circuit.retry_in_s() == 0.0
            self.opened_at = self.clock.now - RESET_S

    @rule(seconds=st.sampled_from([0.5, 5.0, 14.5, 15.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_state_is_what_was_reported(self) -> None:
        if self.opened_at is None:
            assert self.circuit.state is BreakerState.CLOSED
            assert self.failed_in_a_row < FAILURES
        elif self.probe_at is None:
            assert self.circuit.state is BreakerState.OPEN
        else:
            assert self.circuit.state is BreakerState.HALF_OPEN

    @invariant()
    def it_cannot_lock_itself(self) -> None:
        assert 0.0 <= self.circuit.retry_in_s() <= RESET_S


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        ("", "CLOSED"),
        ("CLOSED CLOSED", "CLOSED"),
        ("CLOSED HALF_OPEN", "HALF_OPEN"),
        ("HALF_OPEN CLOSED OPEN", "OPEN"),
    ],
)
def test_of_several_circuits_the_worst_state_counts(states: str, worst: str) -> None:
    breakers = [CircuitBreaker(FakeClock()) for _ in states.split()]
    for breaker, state in zip(breakers, states.split(), strict=True):
        breaker._state = BreakerState(state)
    assert worst_state(breakers) is BreakerState(worst)
