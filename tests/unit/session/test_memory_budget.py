import attrs
import pytest

from chatflow.domain.session.memory_budget import GRACE_S, SMALL_BYTES, MemoryBudget
from chatflow.domain.session.metrics import SessionMetrics
from tests.harness.clock import FakeClock

LIMIT = 100 * SMALL_BYTES


@attrs.define(eq=False)
class Connection:
    is_held: bool = False
    overrun_at: int | None = None

    def hold(self):
        self.is_held = True

    def release(self):
        self.is_held = False

    def overrun(self, held_bytes):
        self.overrun_at = held_bytes


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def budget(clock):
    return MemoryBudget(LIMIT, SessionMetrics(), clock)


def test_who_holds_little_is_not_counted(budget):
    budget.note(Connection(), SMALL_BYTES - 1)
    assert budget.total_bytes == 0


def test_what_one_holds_is_counted_once(budget):
    one = Connection()
    for size in (5, 8, 3):
        budget.note(one, size * SMALL_BYTES)
    assert budget.total_bytes == 3 * SMALL_BYTES
    budget.forget(one)
    budget.forget(one)
    assert budget.total_bytes == 0


def test_over_the_limit_the_largest_holder_is_paused(budget):
    small, large, last = Connection(), Connection(), Connection()
    budget.note(small, 20 * SMALL_BYTES)
    budget.note(large, 60 * SMALL_BYTES)
    budget.note(last, 25 * SMALL_BYTES)
    assert [each.is_held for each in (small, large, last)] == [False, True, False]
    assert budget.metrics.memory_holders_paused == 1


def test_if_that_helps_it_goes_on_and_nobody_is_closed(budget):
    one = Connection()
    budget.note(one, LIMIT + SMALL_BYTES)
    budget.note(one, LIMIT - SMALL_BYTES)
    assert one.is_held
    budget.note(one, LIMIT // 2)
    assert not one.is_held
    assert one.overrun_at is None


def test_if_that_does_not_help_within_a_second_it_is_closed(budget, clock):
    one, other = Connection(), Connection()
    budget.note(one, 90 * SMALL_BYTES)
    budget.note(other, 20 * SMALL_BYTES)
    budget.review()
    assert other.is_held
    assert one.overrun_at is None
    clock.advance(GRACE_S)
    budget.review()
    assert one.overrun_at == 90 * SMALL_BYTES
    assert not other.is_held
    assert budget.total_bytes == 20 * SMALL_BYTES
    assert budget.metrics.memory_holders_dropped == 1


def test_far_over_the_limit_nobody_waits_a_second(budget):
    one = Connection()
    budget.note(one, LIMIT + SMALL_BYTES)
    budget.note(one, 2 * LIMIT)
    assert one.overrun_at == 2 * LIMIT
    assert budget.total_bytes == 0
