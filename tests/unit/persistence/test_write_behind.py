import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatflow.domain.persistence.write_behind import Batch, WriteBehindBuffer
from chatflow.ports.broker import Delivery
from tests.unit.fakes import envelope, messages

PLENTY = 10**9


def delivery(first: int, last: int) -> Delivery:
    return Delivery(envelope(first, last), tag=first)


def filled(*bounds: tuple[int, int]) -> tuple[WriteBehindBuffer, list[Delivery]]:
    buffer = WriteBehindBuffer(PLENTY, PLENTY)
    deliveries = [delivery(*bound) for bound in bounds]
    for each in deliveries:
        buffer.add(each)
    return buffer, deliveries


def taken(buffer: WriteBehindBuffer, limit: int) -> Batch:
    batch = buffer.take(limit)
    assert batch is not None
    return batch


def test_an_empty_buffer_has_no_batch() -> None:
    buffer = WriteBehindBuffer(10, PLENTY)
    assert buffer.take(10) is None
    assert len(buffer) == 0
    assert not buffer.is_full


def test_a_batch_joins_deliveries_in_arrival_order() -> None:
    buffer, deliveries = filled((1, 2), (3, 5))
    batch = taken(buffer, 10)
    assert list(batch.messages) == messages(1, 5)
    assert buffer.commit(batch) is deliveries[1]
    assert len(buffer) == 0
    assert buffer.size_bytes == 0


def test_a_delivery_that_is_not_complete_is_not_acked() -> None:
    buffer, deliveries = filled((1, 5))
    assert buffer.commit(taken(buffer, 2)) is None
    assert buffer.commit(taken(buffer, 2)) is None
    batch = taken(buffer, 2)
    assert list(batch.messages) == messages(5, 5)
    assert buffer.commit(batch) is deliveries[0]


def test_a_batch_that_ends_inside_a_delivery_acks_the_one_before() -> None:
    buffer, deliveries = filled((1, 2), (3, 5))
    assert buffer.commit(taken(buffer, 3)) is deliveries[0]
    batch = taken(buffer, 3)
    assert list(batch.messages) == messages(4, 5)
    assert buffer.commit(batch) is deliveries[1]


def test_a_batch_that_ends_with_a_delivery_acks_it() -> None:
    buffer, deliveries = filled((1, 2), (3, 5))
    assert buffer.commit(taken(buffer, 2)) is deliveries[0]
    assert len(buffer) == 3


def test_what_arrives_while_a_batch_is_out_comes_in_the_next_one() -> None:
    buffer, _ = filled((1, 2))
    batch = taken(buffer, 10)
    buffer.add(delivery(3, 3))
    assert list(batch.messages) == messages(1, 2)
    buffer.commit(batch)
    assert list(taken(buffer, 10).messages) == messages(3, 3)


def test_messages_count_until_they_are_committed() -> None:
    buffer, _ = filled((1, 4))
    batch = taken(buffer, 4)
    assert len(buffer) == 4
    buffer.commit(batch)
    assert len(buffer) == 0


def test_one_batch_is_out_at_a_time() -> None:
    buffer, _ = filled((1, 4))
    taken(buffer, 1)
    with pytest.raises(RuntimeError, match="not committed yet"):
        buffer.take(1)


def test_only_the_batch_that_is_out_can_be_committed_and_only_once() -> None:
    buffer, _ = filled((1, 4))
    with pytest.raises(RuntimeError, match="not the one"):
        buffer.commit(Batch((), None))
    batch = taken(buffer, 1)
    buffer.commit(batch)
    with pytest.raises(RuntimeError, match="not the one"):
        buffer.commit(batch)
    assert len(buffer) == 3


def test_the_buffer_is_full_at_its_limit_of_messages() -> None:
    buffer = WriteBehindBuffer(3, PLENTY)
    buffer.add(delivery(1, 2))
    assert not buffer.is_full
    buffer.add(delivery(3, 3))
    assert buffer.is_full


def test_the_buffer_is_full_at_its_limit_of_bytes() -> None:
    one = delivery(1, 1)
    buffer = WriteBehindBuffer(PLENTY, 2 * one.envelope.size_bytes)
    buffer.add(one)
    assert not buffer.is_full
    buffer.add(delivery(2, 2))
    assert buffer.is_full
    buffer.commit(taken(buffer, 1))
    assert not buffer.is_full


class Buffer(RuleBasedStateMachine):
    """The model: a list of messages and the last message of each delivery. Nothing else is true of the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.limit_messages, self.limit_bytes = 40, 40 * envelope(1, 1).size_bytes
        self.buffer = WriteBehindBuffer(self.limit_messages, self.limit_bytes)
        self.arrived = 0
        self.committed = 0
        self.deliveries: list[tuple[Delivery, int]] = []
        self.acked = 0
        self.out: Batch | None = None
        self.largest = 0

    @rule(count=st.integers(1, 12))
    def add(self, count: int) -> None:
        if self.buffer.is_full:
            return  # the loop stops taking from the broker
        self.largest = max(self.largest, count)
        new = Delivery(envelope(self.arrived + 1, self.arrived + count), tag=len(self.deliveries) + 1)
        self.arrived += count
        self.deliveries.append((new, self.arrived))
        self.buffer.add(new)

    @precondition(lambda self: self.out is None)
    @rule(limit=st.integers(1, 20))
    def take(self, limit: int) -> None:
        self.out = self.buffer.take(limit)
        expected = messages(self.committed + 1, min(self.arrived, self.committed + limit))
        assert list(self.out.messages if self.out else ()) == expected

    @precondition(lambda self: self.out is not None)
    @rule()
    def commit(self) -> None:
        assert self.out is not None
        self.committed += len(self.out.messages)
        ack = self.buffer.commit(self.out)
        self.out = None
        complete = [each for each, last in self.deliveries if last <= self.committed]
        if ack is None:
            assert len(complete) == self.acked
        else:
            assert ack is complete[-1]
            assert len(complete) > self.acked
        self.acked = len(complete)

    @invariant()
    def everything_uncommitted_is_counted(self) -> None:
        assert len(self.buffer) == self.arrived - self.committed
        held = [each for each, last in self.deliveries if last > self.committed]
        assert self.buffer.size_bytes == sum(each.envelope.size_bytes for each in held)

    @invariant()
    def it_is_full_at_the_limit_and_never_holds_more_than_one_delivery_above_it(self) -> None:
        assert self.buffer.is_full == (
            len(self.buffer) >= self.limit_messages or self.buffer.size_bytes >= self.limit_bytes
        )
        assert len(self.buffer) < self.limit_messages + max(self.largest, 1)

    def teardown(self) -> None:
        if self.out is not None:
            self.commit()
        while self.committed < self.arrived:
            self.take(7)
            self.commit()
        assert self.acked == len(self.deliveries)
        assert self.buffer.size_bytes == 0


TestBuffer = Buffer.TestCase
TestBuffer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
