import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import attrs
import pytest

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor, run_processors
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.resilience.circuit_breaker import BreakerState, CircuitBreaker
from chatflow.ports.broker import Consumer, Delivery, Envelope
from chatflow.ports.errors import BrokerUnavailable, SequenceCollision, StoreUnavailable
from chatflow.ports.messages import Message
from tests.harness.clock import FakeClock
from tests.harness.waiting import eventually
from tests.unit.fakes import EPOCH_US, FakeCache, FakeLive, FakeStore, cancel, envelope, message_id, settle

GONE = StoreUnavailable("no store")


@attrs.define(eq=False)
class WatchedConsumer:
    """Checks at each ack that everything it covers is in the store already."""

    inner: Consumer
    store: FakeStore
    log: list[str]
    given: list[Delivery] = attrs.field(factory=list)

    async def receive(self) -> Delivery:
        delivery = await self.inner.receive()
        self.given.append(delivery)
        return delivery

    def waiting(self) -> int:
        return self.inner.waiting()

    async def ack(self, up_to: Delivery) -> None:
        for delivery in self.given:
            if delivery.tag <= up_to.tag:
                for m in delivery.envelope.messages:
                    assert m.message_id in self.store.by_id or m.message_id in self.store.dead
        self.log.append(f"ack {up_to.tag}")
        await self.inner.ack(up_to)

    async def close(self) -> None:
        self.log.append("close")
        await self.inner.close()


@attrs.define(eq=False)
class WatchedBroker:
    """A memory broker whose consumers are watched, and which can refuse to open one."""

    inner: MemoryBroker
    store: FakeStore
    refusals: int = 0
    consumers: list[WatchedConsumer] = attrs.field(factory=list)
    log: list[str] = attrs.field(factory=list)

    async def publish(self, envelope: Envelope) -> None:
        await self.inner.publish(envelope)

    async def consume(self, partition: int, *, prefetch: int) -> Consumer:
        if self.refusals:
            self.refusals -= 1
            raise BrokerUnavailable("no broker")
        consumer = WatchedConsumer(await self.inner.consume(partition, prefetch=prefetch), self.store, self.log)
        self.consumers.append(consumer)
        return consumer


@attrs.define(eq=False)
class Bench:
    clock: FakeClock = attrs.field(factory=FakeClock)
    store: FakeStore = attrs.field(factory=FakeStore)
    live: FakeLive = attrs.field(factory=FakeLive)
    metrics: PersistenceMetrics = attrs.field(factory=PersistenceMetrics)
    limit_messages: int = 1_000
    policy: BatchPolicy = attrs.field(factory=BatchPolicy)
    prefetch: int = 64
    trips: list[str] = attrs.field(factory=list)
    collisions: list[tuple[int, SequenceCollision]] = attrs.field(factory=list)
    cache: FakeCache | None = None
    broker: WatchedBroker = attrs.field(init=False)
    tasks: list[asyncio.Task[object]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.broker = WatchedBroker(MemoryBroker(partitions=4, confirm_timeout_s=60), self.store)

    def processor(self, partition: int = 0) -> PartitionProcessor:
        persister = Persister(self.store, self.live, self.metrics, self.clock, lambda: EPOCH_US, self.cache, self.cache)
        return PartitionProcessor(
            partition,
            self.broker,
            persister,
            CircuitBreaker(self.clock),
            self.policy,
            self.metrics,
            new_buffer=lambda: WriteBehindBuffer(self.limit_messages, 10**9),
            prefetch=self.prefetch,
            on_trip=lambda failure: self.trips.append(str(failure)),
            on_collision=lambda failure: self.collisions.append((partition, failure)),
            sleep=self.clock.sleep,
            jitter=lambda: 0.5,
        )

    def start(self, partition: int = 0) -> PartitionProcessor:
        processor = self.processor(partition)
        self.spawn(processor.run())
        return processor

    def spawn(self, work: object) -> asyncio.Task[object]:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    def publish(self, *envelopes: Envelope) -> list[asyncio.Task[object]]:
        return [self.spawn(self.broker.publish(each)) for each in envelopes]


Build = Callable[..., Bench]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    benches: list[Bench] = []

    def make(**settings: object) -> Bench:
        benches.append(Bench(**settings))
        return benches[-1]

    yield make
    for bench in benches:
        await cancel(*bench.tasks)


def ids(first: int, last: int) -> list[str]:
    return [message_id(n) for n in range(first, last + 1)]


async def test_what_is_consumed_is_stored_in_order_and_acked_after_the_commit(build: Build) -> None:
    bench = build()
    bench.start()
    published = bench.publish(envelope(1, 3), envelope(4, 4), envelope(5, 9))
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == ids(1, 9)
    assert bench.broker.log[-1] == "ack 3"
    assert bench.metrics.consumed == 9
    assert bench.metrics.stored == 9
    assert bench.metrics.buffered == 0
    assert bench.broker.inner.queued_bytes(0) == 0


async def test_nothing_is_acked_while_the_store_fails_and_everything_once_it_is_back(build: Build) -> None:
    bench = build()
    bench.store.down = GONE
    bench.start()
    published = bench.publish(envelope(1, 3))
    await eventually(lambda: bench.store.count("append_batch") >= 3)
    assert bench.broker.log == []
    assert not published[0].done()
    bench.store.down = None
    await eventually(published[0].done)
    assert bench.store.ids() == ids(1, 3)
    assert bench.metrics.batch_failures >= 2


async def test_a_batch_that_failed_is_repeated_until_it_is_stored(build: Build) -> None:
    bench = build()
    bench.store.failures.extend([GONE, GONE])
    processor = bench.start()
    (published,) = bench.publish(envelope(1, 3))
    await eventually(published.done)
    assert bench.store.calls[:3] == [("append_batch", ids(1, 3))] * 3
    assert bench.clock.slept[:2] == [0.05, 0.1]
    assert processor.breaker.state is BreakerState.CLOSED


COLLISION = SequenceCollision("lobby/1")


async def test_a_collision_stops_its_partition_and_acks_nothing(build: Build) -> None:
    bench = build()
    bench.store.failures.append(COLLISION)
    processor = bench.processor()
    running = bench.spawn(processor.run())
    bench.publish(envelope(1, 3))
    await asyncio.wait_for(running, 5)
    assert processor.stopped_by is COLLISION
    assert bench.collisions == [(0, COLLISION)]
    assert bench.store.count("append_batch") == 1
    assert bench.broker.log == ["close"]
    assert bench.metrics.sequence_collisions == 1
    assert bench.metrics.buffered == 0


async def test_a_collision_in_one_partition_leaves_the_others_running(build: Build) -> None:
    bench = build()
    processors = [bench.processor(partition) for partition in range(2)]
    running = bench.spawn(run_processors(processors))

    async def collide_in_room_0(batch: Sequence[Message]) -> None:
        if batch[0].room_id == "room-0":
            raise COLLISION

    bench.store.before_commit = collide_in_room_0
    bench.publish(envelope_in(0, 1))
    await eventually(lambda: bench.collisions)
    (published,) = bench.publish(envelope_in(1, 101))
    await eventually(published.done)
    assert [processor.stopped_by for processor in processors] == [COLLISION, None]
    processors[1].stop()
    await asyncio.wait_for(running, 5)


async def test_a_partition_that_keeps_failing_opens_its_circuit_although_others_succeed(build: Build) -> None:
    bench = build()

    async def fail_in_room_0(batch: Sequence[Message]) -> None:
        if batch[0].room_id == "room-0":
            for n in range(101, 111, 2):
                await asyncio.wait(bench.publish(envelope_in(1, n)))
            raise GONE

    bench.store.before_commit = fail_in_room_0
    failing, other = bench.start(0), bench.start(1)
    bench.publish(envelope_in(0, 1))
    await eventually(lambda: bench.trips)
    assert failing.breaker.trips >= 1
    assert failing.breaker.consecutive_failures >= 5
    assert (other.breaker.state, other.breaker.consecutive_failures) == (BreakerState.CLOSED, 0)


async def test_a_lost_answer_of_the_store_stores_nothing_twice(build: Build) -> None:
    bench = build()
    bench.store.lost_answers.append(GONE)
    bench.start()
    published = bench.publish(envelope(1, 3), envelope(4, 5))
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == ids(1, 5)


async def test_poison_is_dead_lettered_acked_and_does_not_stop_the_rest(build: Build) -> None:
    bench = build()
    bench.store.poison = {message_id(2)}
    processor = bench.start()
    published = bench.publish(envelope(1, 3), envelope(4, 5))
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == [message_id(n) for n in (1, 3, 4, 5)]
    assert set(bench.store.dead) == {message_id(2)}
    assert processor.breaker.state is BreakerState.CLOSED


async def test_poison_that_cannot_be_dead_lettered_is_not_acked(build: Build) -> None:
    bench = build()
    bench.store.poison = {message_id(2)}
    bench.store.dead_letter_failures.extend([GONE, GONE])
    bench.start()
    (published,) = bench.publish(envelope(1, 3))
    await eventually(published.done)
    assert set(bench.store.dead) == {message_id(2)}
    assert bench.store.count("add_dead_letter") == 3


async def test_a_small_batch_size_splits_envelopes_and_acks_only_whole_ones(build: Build) -> None:
    bench = build(policy=BatchPolicy(small=2, medium=2, large=2))
    bench.start()
    published = bench.publish(envelope(1, 3), envelope(4, 8))
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == ids(1, 8)
    assert [entry for entry in bench.broker.log if entry.startswith("ack")] == ["ack 1", "ack 2"]
    assert all(len(batch) <= 2 for name, batch in bench.store.calls if name == "append_batch")


async def test_the_batch_grows_with_what_waits_in_the_queue(build: Build) -> None:
    policy = BatchPolicy(small=1, medium=4, large=8, medium_depth=3, large_depth=6)
    bench = build(policy=policy, prefetch=1)
    published = bench.publish(envelope(1, 4), *(envelope(n, n) for n in range(5, 9)))
    await settle()
    bench.start()
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.calls[0] == ("append_batch", ids(1, 4))
    assert bench.store.calls[-1] == ("append_batch", ids(8, 8))
    assert bench.store.ids() == ids(1, 8)


async def test_the_next_batch_collects_while_one_is_committed(build: Build) -> None:
    bench = build()
    held = asyncio.Event()
    bench.store.before_commit = lambda _: held.wait()
    bench.start()
    published = bench.publish(envelope(1, 1))
    await eventually(lambda: bench.metrics.buffered == 1)
    published += bench.publish(*(envelope(n, n) for n in range(2, 11)))
    await eventually(lambda: bench.metrics.buffered == 10)
    held.set()
    await eventually(lambda: all(task.done() for task in published))
    sizes = [len(batch) for name, batch in bench.store.calls if name == "append_batch"]
    assert sizes == [1, 9]


@attrs.define(eq=False)
class ManualSleep:
    """Sleepers wait until the test lets time pass; those of one moment wake together."""

    clock: FakeClock
    sleepers: list[tuple[float, asyncio.Future[None]]] = attrs.field(factory=list)

    async def __call__(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.clock.now + seconds, future))
        await future

    async def pass_time(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while (first := min((at for at, _ in self.sleepers), default=end + 1)) <= end:
            self.clock.now = max(self.clock.now, first)
            due = [entry for entry in self.sleepers if entry[0] <= self.clock.now]
            self.sleepers = [entry for entry in self.sleepers if entry not in due]
            for _, future in due:
                if not future.done():
                    future.set_result(None)
            await settle()
        self.clock.now = end


async def test_an_open_breaker_stops_the_pulling_and_the_broker_keeps_the_rest(build: Build) -> None:
    bench = build(limit_messages=10, prefetch=100)
    bench.store.down = GONE
    processor = bench.processor()
    processor.sleep = sleep = ManualSleep(bench.clock)
    bench.spawn(processor.run())
    published = bench.publish(*(envelope(3 * n + 1, 3 * n + 3) for n in range(20)))
    await settle()
    await sleep.pass_time(5)
    assert processor.breaker.state is BreakerState.OPEN
    assert bench.trips == ["no store"]
    assert bench.store.count("append_batch") == 5
    assert bench.metrics.buffered == 12  # the limit and the delivery that passed it
    assert bench.metrics.consumed == 12
    assert bench.broker.consumers[0].waiting() == 48
    await sleep.pass_time(20)
    assert bench.store.count("append_batch") == 6  # one probe
    assert bench.trips == ["no store", "no store"]
    bench.store.down = None
    await sleep.pass_time(20)
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == ids(1, 60)
    assert processor.breaker.state is BreakerState.CLOSED
    assert bench.store.dead == {}


async def test_all_partitions_go_on_within_seconds_of_the_probe_that_succeeds(build: Build) -> None:
    bench = build()
    bench.store.down = GONE
    sleep = ManualSleep(bench.clock)
    processors = [bench.processor(partition) for partition in range(4)]
    for processor in processors:
        processor.sleep = sleep
        bench.spawn(processor.run())
    published = bench.publish(*(envelope(n + 1, n + 1, f"room-{n}", n) for n in range(4)))
    await settle()
    await sleep.pass_time(10)
    assert [processor.breaker.state for processor in processors] == [BreakerState.OPEN] * 4
    bench.store.down = None
    opened_for = max(processor.breaker.retry_in_s() for processor in processors)
    await sleep.pass_time(opened_for + 3)
    assert [task.done() for task in published] == [True] * 4


async def test_stop_stores_and_acks_what_was_taken_and_leaves_the_rest_to_the_broker(build: Build) -> None:
    bench = build(limit_messages=4, prefetch=100)
    held = asyncio.Event()
    bench.store.before_commit = lambda _: held.wait()
    processor = bench.processor()
    running = bench.spawn(processor.run())
    published = bench.publish(*(envelope(2 * n + 1, 2 * n + 2) for n in range(5)))
    await eventually(lambda: bench.metrics.buffered == 4)
    processor.stop()
    await settle()
    assert not running.done()
    held.set()
    await running
    assert bench.store.ids() == ids(1, 4)
    assert bench.broker.log[-1] == "close"
    assert bench.metrics.buffered == 0
    await settle()
    assert [task.done() for task in published] == [True, True, False, False, False]
    assert bench.broker.consumers[0].waiting() == 6


async def test_stop_ends_an_idle_processor(build: Build) -> None:
    bench = build()
    processor = bench.processor()
    running = bench.spawn(processor.run())
    await eventually(lambda: bench.broker.consumers)
    processor.stop()
    await asyncio.wait_for(running, 5)
    assert bench.broker.log == ["close"]


async def test_a_processor_that_was_stopped_before_it_ran_takes_nothing(build: Build) -> None:
    bench = build()
    processor = bench.processor()
    processor.stop()
    await processor.run()
    assert bench.broker.consumers == []


async def test_a_consumer_that_dies_is_replaced_and_what_it_held_is_stored_once(build: Build) -> None:
    bench = build(policy=BatchPolicy(small=2, medium=2, large=2))
    held = asyncio.Event()
    bench.store.after_commit = held.wait
    bench.start()
    published = bench.publish(envelope(1, 2), envelope(3, 4))
    await eventually(lambda: len(bench.store.by_id) == 2)
    await bench.broker.consumers[0].inner.close()
    held.set()
    await eventually(lambda: all(task.done() for task in published))
    assert len(bench.broker.consumers) == 2
    assert bench.broker.consumers[1].given[0].redelivered
    assert bench.store.ids() == ids(1, 4)
    assert bench.metrics.duplicates >= 2
    assert bench.metrics.buffered == 0
    assert (bench.metrics.consume_errors, bench.metrics.dropped) == (1, 2)  # two were stored, two came again


async def test_a_consumer_that_dies_while_idle_is_replaced(build: Build) -> None:
    bench = build()
    bench.start()
    await eventually(lambda: bench.broker.consumers)
    await bench.broker.consumers[0].inner.close()
    (published,) = bench.publish(envelope(1, 2))
    await eventually(published.done)
    assert bench.store.ids() == ids(1, 2)


async def test_a_broker_that_refuses_consumers_is_asked_again_ever_more_slowly(build: Build) -> None:
    bench = build()
    bench.broker.refusals = 8
    bench.start()
    (published,) = bench.publish(envelope(1, 2))
    await eventually(published.done)
    assert bench.clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert bench.metrics.consume_errors == 8


async def test_cancelled_at_once_it_acks_nothing_that_is_not_stored(build: Build) -> None:
    bench = build()
    held = asyncio.Event()
    bench.store.before_commit = lambda _: held.wait()
    running = bench.spawn(bench.processor().run())
    published = bench.publish(envelope(1, 2), envelope(3, 4))
    await eventually(lambda: bench.metrics.buffered == 4)
    await cancel(running)
    assert bench.broker.log == ["close"]
    assert bench.metrics.buffered == 0
    held.set()
    bench.start()
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.ids() == ids(1, 4)


async def test_an_error_that_nobody_foresaw_ends_the_processor_loudly_and_acks_nothing(build: Build) -> None:
    bench = build()
    running = bench.spawn(bench.processor().run())
    await eventually(lambda: bench.broker.consumers)

    async def broken(batch: object) -> object:
        raise ZeroDivisionError

    bench.store.before_commit = broken
    bench.publish(envelope(1, 2))
    with pytest.raises(ZeroDivisionError):
        await running
    assert bench.broker.log == ["close"]


async def test_several_partitions_are_stored_side_by_side(build: Build) -> None:
    bench = build()
    processors = [bench.processor(partition) for partition in range(4)]
    running = bench.spawn(run_processors(processors))
    published = [
        task
        for n in range(10)
        for partition in range(4)
        for task in bench.publish(envelope_in(partition, 100 * partition + 2 * n + 1))
    ]
    await eventually(lambda: all(task.done() for task in published))
    for partition in range(4):
        assert bench.store.ids(f"room-{partition}") == ids(100 * partition + 1, 100 * partition + 20)
    for processor in processors:
        processor.stop()
    await asyncio.wait_for(running, 5)


async def test_a_partition_whose_commit_hangs_does_not_hold_up_another(build: Build) -> None:
    bench = build()
    held = asyncio.Event()

    async def slow_in_room_0(batch: Sequence[Message]) -> None:
        if batch[0].room_id == "room-0":
            await held.wait()

    bench.store.before_commit = slow_in_room_0
    bench.start(0)
    bench.start(1)
    first, second = bench.publish(envelope_in(0, 1), envelope_in(1, 101))
    await eventually(second.done)
    assert not first.done()
    held.set()
    await eventually(first.done)


async def test_a_linger_lets_a_batch_fill(build: Build) -> None:
    bench = build(policy=BatchPolicy(linger_s=0.25))
    processor = bench.processor()
    processor.sleep = sleep = ManualSleep(bench.clock)
    bench.spawn(processor.run())
    published = bench.publish(envelope(1, 1))
    await eventually(lambda: bench.metrics.buffered == 1)
    published += bench.publish(envelope(2, 2))
    await eventually(lambda: bench.metrics.buffered == 2)
    assert bench.store.calls == []
    await sleep.pass_time(0.25)
    await eventually(lambda: all(task.done() for task in published))
    assert bench.store.calls[0] == ("append_batch", ids(1, 2))


async def test_a_second_processor_takes_over_when_the_first_one_stops(build: Build) -> None:
    bench = build()
    first, second = bench.start(), bench.start()
    (published,) = bench.publish(envelope(1, 2))
    await eventually(published.done)
    assert [len(consumer.given) for consumer in bench.broker.consumers] == [1, 0]
    first.stop()
    await eventually(lambda: "close" in bench.broker.log)
    (published,) = bench.publish(envelope(3, 4))
    await eventually(published.done)
    assert [len(consumer.given) for consumer in bench.broker.consumers] == [1, 1]
    assert bench.store.ids() == ids(1, 4)
    second.stop()


async def test_what_is_cached_ends_when_a_consumer_opens_and_before_it_stores_for_the_first_time(build: Build) -> None:
    bench = build()
    bench.cache = FakeCache(bench.store.calls)
    void, stored = ("invalidate", None), ["append_batch", "publish"]
    active, standby = bench.start(), bench.start()
    await eventually(lambda: bench.store.calls == [void] * 2)
    for first in (1, 3):
        await asyncio.wait(bench.publish(envelope(first, first + 1)))
    assert bench.store.calls[2] == void
    assert [name for name, _ in bench.store.calls[3:]] == stored * 2
    assert void not in bench.store.calls[3:]
    active.stop()
    await eventually(lambda: "close" in bench.broker.log)
    bench.store.calls.clear()
    await asyncio.wait(bench.publish(envelope(5, 6)))
    assert bench.store.calls[0] == void
    assert [name for name, _ in bench.store.calls[1:]] == stored
    standby.stop()


def envelope_in(partition: int, first: int) -> Envelope:
    return envelope(first, first + 1, f"room-{partition}", partition)
