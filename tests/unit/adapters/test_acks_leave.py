"""Late acks of all partitions leave at the same moments, and none later than it may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.adapters.rabbitmq.consumer import ACK_DELAY_S, until_acks_leave_s


@given(now=st.floats(0, 1e6))
def test_no_ack_waits_longer_than_it_may(now: float) -> None:
    assert 0 <= until_acks_leave_s(now) <= ACK_DELAY_S


@given(tick=st.integers(0, 10**6), first=st.floats(0.01, 0.99), second=st.floats(0.01, 0.99))
def test_what_two_owe_between_two_moments_leaves_at_once(tick: int, first: float, second: float) -> None:
    leaving = [at + until_acks_leave_s(at) for at in ((tick + part) * ACK_DELAY_S for part in (first, second))]
    assert leaving[0] == pytest.approx(leaving[1], abs=1e-6)
