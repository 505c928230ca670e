import asyncio
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from chatflow.domain.ingest.fairness import LIGHT_MEMORY_S
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.messages.conflicts import FoundConflicts
from chatflow.domain.messages.errors import Conflict
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.resilience.circuit_breaker import BreakerState, CircuitBreaker
from chatflow.ports.broker import size_of
from chatflow.ports.errors import BrokerFull, BrokerUnavailable, BufferFull, CircuitOpen, Draining
from tests.harness.clock import FakeClock
from tests.harness.waiting import eventually
from tests.unit.fakes import FakeBroker, RecordingSink, cancel, message, message_id, settle

PARTITIONS = 8
ONE = size_of(message(1))
DOWN = BrokerUnavailable("no broker")
ROOM_OF = {partition_of(str(n), PARTITIONS): str(n) for n in range(100)}


@attrs.define(eq=False)
class Bench:
    clock: FakeClock
    broker: FakeBroker
    publisher: IngestPublisher
    sink: RecordingSink = attrs.field(factory=RecordingSink)

    def offer(self, *numbers: int, room: str = "lobby") -> None:
        for n in numbers:
            self.publisher.offer(message(n, room), self.sink, n)

    @property
    def accepted(self) -> list[object]:
        return self.sink.refs("accepted")

    @property
    def refused(self) -> list[object]:
        return self.sink.refs("refused")

    @property
    def envelopes(self) -> list[list[str]]:
        return [[m.message_id for m in envelope.messages] for envelope in self.broker.attempts]


Build = Callable[..., Bench]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    running: list[asyncio.Task[None]] = []

    def make(*, manual: bool = False, failures: int = 5, **settings: object) -> Bench:
        clock, broker = FakeClock(), FakeBroker(manual=manual)
        breaker = CircuitBreaker(clock, failures=failures)
        publisher = IngestPublisher(
            broker, breaker, IngestMetrics(), clock, partitions=PARTITIONS, sleep=clock.sleep, **settings
        )
        running.append(asyncio.create_task(publisher.run()))
        return Bench(clock, broker, publisher)

    yield make
    await cancel(*running)


def ids(*numbers: int) -> list[str]:
    return [message_id(n) for n in numbers]


async def test_a_message_is_accepted_only_after_the_broker_has_confirmed_it(build: Build) -> None:
    bench = build(manual=True)
    bench.offer(1)
    await settle()
    assert len(bench.broker.waiting) == 1
    assert bench.sink.told == []
    bench.broker.confirm()
    await eventually(lambda: bench.sink.told)
    assert bench.sink.told == [("accepted", 1)]


async def test_while_one_envelope_is_confirmed_the_next_one_fills(build: Build) -> None:
    bench = build(manual=True)
    bench.offer(1)
    await eventually(lambda: bench.broker.waiting)
    bench.offer(2, 3)
    await settle()
    bench.offer(4)
    await settle()
    assert bench.envelopes == [ids(1)]
    bench.broker.confirm()
    await eventually(lambda: bench.broker.waiting)
    assert bench.envelopes == [ids(1), ids(2, 3, 4)]
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 4)
    assert bench.accepted == [1, 2, 3, 4]
    assert bench.publisher.metrics.queue_published == 2
    assert bench.publisher.metrics.messages_published == 4


async def test_partitions_do_not_wait_for_each_other(build: Build) -> None:
    bench = build(manual=True)
    bench.offer(1, room=ROOM_OF[0])
    bench.offer(2, room=ROOM_OF[1])
    await eventually(lambda: len(bench.broker.waiting) == 2)
    assert {envelope.partition for envelope in bench.broker.attempts} == {0, 1}
    first = bench.broker.attempts[0].messages[0].message_id
    bench.broker.waiting.pop(1)[1].set_result(None)
    await eventually(lambda: bench.accepted)
    assert message_id(int(str(bench.accepted[0]))) != first
    bench.broker.confirm()


async def test_an_envelope_carries_at_most_so_many_messages_and_bytes(build: Build) -> None:
    bench = build(envelope_messages=3, envelope_bytes=2 * ONE)
    bench.offer(1, 2, 3, 4, 5)
    await eventually(lambda: len(bench.accepted) == 5)
    assert bench.envelopes == [ids(1, 2), ids(3, 4), ids(5)]
    assert [envelope.size_bytes for envelope in bench.broker.attempts] == [2 * ONE, 2 * ONE, ONE]


async def test_a_failed_publish_is_tried_again_with_the_same_ids(build: Build) -> None:
    bench = build()
    bench.broker.outcomes.extend([DOWN, DOWN])
    bench.offer(1, 2)
    await eventually(lambda: bench.accepted)
    assert bench.envelopes == [ids(1, 2)] * 3
    assert bench.accepted == [1, 2]
    assert bench.refused == []
    assert bench.publisher.metrics.queue_failures == 2
    assert bench.publisher.breaker.state is BreakerState.CLOSED


async def test_what_arrives_during_the_retries_waits_its_turn(build: Build) -> None:
    bench = build(manual=True)
    bench.offer(1)
    await eventually(lambda: bench.broker.waiting)
    bench.offer(2)
    bench.broker.fail(DOWN)
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 2)
    assert bench.envelopes == [ids(1), ids(1), ids(2)]


async def test_an_envelope_that_is_given_up_takes_what_is_behind_it_along(build: Build) -> None:
    bench = build(manual=True, patience_s=0)
    bench.offer(1)
    await eventually(lambda: bench.broker.waiting)
    bench.offer(2, 3)
    bench.broker.fail(DOWN)
    await eventually(lambda: len(bench.refused) == 3)
    assert bench.refused == [1, 2, 3]
    assert bench.envelopes == [ids(1)]
    assert all(error.retryable for error in bench.sink.errors)
    assert bench.publisher.pending_bytes == 0
    assert bench.publisher.metrics.refused == 3
    bench.offer(4)
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: bench.accepted)
    assert bench.accepted == [4]


async def test_what_is_behind_in_another_partition_is_not_refused_with_it(build: Build) -> None:
    bench = build(manual=True, patience_s=0)
    bench.offer(1, room=ROOM_OF[0])
    await eventually(lambda: len(bench.broker.waiting) == 1)
    bench.offer(2, room=ROOM_OF[1])
    await eventually(lambda: len(bench.broker.waiting) == 2)
    bench.broker.fail(DOWN)
    await eventually(lambda: bench.refused)
    bench.broker.confirm()
    await eventually(lambda: bench.accepted)
    assert (bench.refused, bench.accepted) == ([1], [2])


async def test_senders_are_told_when_their_patience_ends(build: Build) -> None:
    bench = build(patience_s=0.8, failures=1_000)
    bench.broker.down = DOWN
    started = bench.clock.now
    bench.offer(1)
    await eventually(lambda: bench.refused)
    assert 0.5 < bench.clock.now - started <= 0.8
    assert isinstance(bench.sink.errors[0], BrokerUnavailable)
    assert bench.clock.slept[:4] == [0.02, 0.04, 0.08, 0.16]
    assert max(bench.clock.slept) == 0.2


async def test_a_broker_that_is_full_is_tried_again_but_does_not_open_the_breaker(build: Build) -> None:
    bench = build(failures=2)
    bench.broker.outcomes.extend([BrokerFull("full")] * 4)
    bench.offer(1)
    await eventually(lambda: bench.accepted)
    bench.broker.down = BrokerFull("full")
    bench.offer(2)
    await eventually(lambda: bench.refused)
    assert isinstance(bench.sink.errors[0], BrokerFull)
    assert bench.publisher.breaker.state is BreakerState.CLOSED


async def test_five_failures_open_the_breaker_and_offers_are_refused_before_anything_is_kept(build: Build) -> None:
    bench = build(patience_s=60)
    bench.broker.down = DOWN
    bench.offer(1, 2)
    await eventually(lambda: bench.refused)
    assert len(bench.broker.attempts) == 5
    assert bench.refused == [1, 2]
    assert bench.publisher.breaker.state is BreakerState.OPEN
    with pytest.raises(CircuitOpen) as raised:
        bench.offer(3)
    assert 0 < raised.value.retry_in_s <= 15
    await settle()
    assert len(bench.broker.attempts) == 5
    assert bench.publisher.pending_bytes == 0
    assert bench.refused == [1, 2]


async def test_when_the_breaker_may_close_one_partition_probes_and_the_others_are_refused(build: Build) -> None:
    bench = build(manual=True, patience_s=60)
    bench.offer(1, room=ROOM_OF[0])
    for _ in range(5):
        await eventually(lambda: bench.broker.waiting)
        bench.broker.fail(DOWN)
    await eventually(lambda: bench.refused)
    bench.clock.advance(15)
    for partition in range(3):
        bench.offer(10 + partition, room=ROOM_OF[partition])
    await settle()
    assert len(bench.broker.waiting) == 1
    assert len(bench.refused) == 3
    assert bench.publisher.breaker.state is BreakerState.HALF_OPEN
    with pytest.raises(CircuitOpen):
        bench.offer(20)
    bench.broker.confirm()
    await eventually(lambda: bench.accepted)
    assert bench.publisher.breaker.state is BreakerState.CLOSED
    bench.offer(30)
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 2)


async def test_beyond_the_byte_limit_an_offer_is_refused_and_nothing_is_kept(build: Build) -> None:
    bench = build(manual=True, limit_bytes=3 * ONE)
    bench.offer(1, 2, 3)
    with pytest.raises(BufferFull):
        bench.offer(4)
    assert bench.publisher.pending_bytes == 3 * ONE
    await eventually(lambda: bench.broker.waiting)
    with pytest.raises(BufferFull):
        bench.offer(5)
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 3)
    bench.offer(6)
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 4)
    assert bench.accepted == [1, 2, 3, 6]
    assert bench.refused == []


async def test_at_half_the_limit_senders_are_slowed_until_it_is_less(build: Build) -> None:
    bench = build(manual=True, limit_bytes=4 * ONE, envelope_messages=1)
    bench.offer(1)
    assert not bench.publisher.is_congested(bench.sink.share)
    await bench.publisher.uncongested(bench.sink.share)
    bench.offer(2)
    assert bench.publisher.is_congested(bench.sink.share)
    waiting = asyncio.create_task(bench.publisher.uncongested(bench.sink.share))
    await eventually(lambda: bench.broker.waiting)
    assert not waiting.done()
    bench.broker.confirm()
    await waiting
    assert bench.publisher.pending_bytes == ONE
    await eventually(lambda: bench.broker.waiting)
    bench.broker.confirm()
    await eventually(lambda: len(bench.accepted) == 2)


async def test_draining_refuses_what_is_new_and_waits_for_what_was_taken(build: Build) -> None:
    bench = build(manual=True)
    bench.offer(1)
    await eventually(lambda: bench.broker.waiting)
    bench.offer(2)
    drained = asyncio.create_task(bench.publisher.drain())
    await settle()
    with pytest.raises(Draining):
        bench.offer(3)
    bench.broker.confirm()
    await eventually(lambda: bench.broker.waiting)
    await settle()
    assert not drained.done()
    bench.broker.confirm()
    await drained
    assert bench.accepted == [1, 2]


async def test_draining_an_idle_acceptor_is_done_at_once(build: Build) -> None:
    bench = build()
    await asyncio.wait_for(bench.publisher.drain(), 5)
    with pytest.raises(Draining):
        bench.offer(1)


async def test_draining_ends_when_the_broker_is_gone_too(build: Build) -> None:
    bench = build()
    bench.broker.down = DOWN
    bench.offer(1)
    await asyncio.wait_for(bench.publisher.drain(), 5)
    assert bench.refused == [1]


async def test_a_cancelled_acceptor_tells_nobody_what_it_does_not_know(build: Build) -> None:
    clock, broker = FakeClock(), FakeBroker(manual=True)
    publisher = IngestPublisher(broker, CircuitBreaker(clock), IngestMetrics(), clock, partitions=PARTITIONS)
    sink = RecordingSink()
    running = asyncio.create_task(publisher.run())
    publisher.offer(message(1), sink, 1)
    await eventually(lambda: broker.waiting)
    publisher.offer(message(2), sink, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await settle()
    assert sink.told == []
    assert len(broker.attempts) == 1


async def test_a_sink_may_offer_again_when_it_is_told(build: Build) -> None:
    bench = build()

    class Persistent(RecordingSink):
        def refused(self, message: object, ref: object, error: object) -> None:
            super().refused(message, ref, error)
            bench.offer(2)

    bench.broker.outcomes.extend([DOWN] * 4)
    bench.publisher.patience_s = 0.0
    bench.publisher.offer(message(1), Persistent(), 1)
    bench.broker.outcomes = type(bench.broker.outcomes)([DOWN])
    await eventually(lambda: bench.accepted)
    assert bench.accepted == [2]


async def test_ten_thousand_messages_over_a_shaky_broker_are_each_told_once_and_in_order(build: Build) -> None:
    bench = build(failures=10**6, envelope_messages=50)
    bench.broker.outcomes.extend(DOWN if n % 3 == 0 else None for n in range(600))
    for n in range(10_000):
        bench.offer(n, room=ROOM_OF[n % PARTITIONS])
    await bench.publisher.drain()
    assert len(bench.sink.told) == 10_000
    accepted = set(bench.accepted)
    for partition in range(PARTITIONS):
        told = [int(str(ref)) for ref in bench.accepted if int(str(ref)) % PARTITIONS == partition]
        assert told == sorted(told)
    assert set(bench.broker.confirmed_ids()) == {message_id(int(str(ref))) for ref in accepted}


async def test_a_conflict_that_the_commit_has_found_is_refused_in_its_place(build: Build) -> None:
    bench = build(manual=True, conflicts=FoundConflicts(10))
    bench.offer(1, 2, 3)
    await eventually(lambda: bench.broker.waiting)
    bench.publisher.conflicts.add(bench.broker.waiting[0][0].messages[1])
    bench.broker.confirm()
    await eventually(lambda: len(bench.sink.told) == 3)
    assert bench.sink.told == [("accepted", 1), ("refused", 2), ("accepted", 3)]
    assert type(bench.sink.errors[0]) is Conflict
    assert not bench.publisher.conflicts
    assert bench.publisher.pending_bytes == 0


async def test_heavy_senders_of_all_partitions_are_served_while_light_ones_come_and_go(build: Build) -> None:
    bench = build(manual=True)
    heavy = RecordingSink()
    heavy.share.is_heavy = True
    heavy.share.left = 10**6
    offered = 0
    for round_ in range(6):
        for partition in range(PARTITIONS):
            for _ in range(3):
                bench.publisher.offer(message(offered, ROOM_OF[partition]), heavy, offered)
                offered += 1
        if round_ != 3:
            bench.offer(10_000 + round_, room=ROOM_OF[round_ % PARTITIONS])
        for _ in range(7):
            await settle()
            while bench.broker.waiting:
                bench.broker.confirm()
            if round_ == 3:
                bench.clock.advance(LIGHT_MEMORY_S)  # nobody is left to be protected
    for _ in range(200):
        await settle()
        while bench.broker.waiting:
            bench.broker.confirm()
    assert sorted(heavy.refs("accepted")) == list(range(offered))
    assert len(bench.accepted) == 5


async def test_a_turn_that_began_while_light_senders_were_about_ends_when_they_are_gone(build: Build) -> None:
    bench = build(manual=True)
    heavy = RecordingSink()
    heavy.share.is_heavy, heavy.share.left = True, 10**6
    bench.offer(100, room=ROOM_OF[0])
    await settle()
    bench.broker.confirm()
    await settle()
    bench.publisher.offer(message(1, ROOM_OF[1]), heavy, 1)
    await settle()
    bench.clock.advance(LIGHT_MEMORY_S)
    bench.publisher.offer(message(2, ROOM_OF[2]), heavy, 2)
    await settle()
    bench.broker.confirm()
    bench.broker.confirm()
    await settle()
    bench.offer(101, room=ROOM_OF[0])
    await settle()
    bench.broker.confirm()
    bench.publisher.offer(message(3, ROOM_OF[3]), heavy, 3)
    await settle()
    bench.broker.confirm()
    await eventually(lambda: heavy.refs("accepted") == [1, 2, 3])
