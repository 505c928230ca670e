"""What every `Broker` promises. An adapter joins with a harness and a name in `HARNESSES`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from chatflow.ports.broker import Consumer, Delivery
from chatflow.ports.errors import BrokerFull, BrokerUnavailable
from tests.contract.broker_harnesses import HARNESSES, Harness, MemoryHarness
from tests.harness.waiting import eventually
from tests.unit.fakes import cancel, envelope

WAIT_S = 10.0
QUIET_S = 0.05
"""How long a delivery that must not come is waited for."""


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness = await HARNESSES[request.param](request)
    yield harness
    await harness.aclose()


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    async with asyncio.timeout(WAIT_S):
        return [await consumer.receive() for _ in range(count)]


async def assert_silent(consumer: Consumer) -> None:
    """Nothing is delivered; a receive that is given up takes nothing with it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await consumer.receive()


async def until_queued(harness: Harness, count: int, *, partition: int = 0) -> None:
    async def is_so() -> bool:
        return await harness.queued(partition) == count

    await eventually(is_so, f"partition {partition} holding {count}")


async def fill(harness: Harness, partition: int = 0) -> list[int]:
    """Publish one message each until the partition is full; what was taken."""
    taken: list[int] = []
    with pytest.raises(BrokerFull):
        for n in range(1, 1_000):
            await harness.enqueue(envelope(n, n, partition=partition))
            taken.append(n)
    return taken


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(m.message_id[-12:], 16) for delivery in deliveries for m in delivery.envelope.messages]


async def test_what_is_published_is_delivered_unchanged(harness: Harness) -> None:
    sent = envelope(1, 3)
    await harness.enqueue(sent)
    consumer = await harness.broker.consume(0, prefetch=10)
    (delivery,) = await receive(consumer, 1)
    assert delivery.envelope.messages == sent.messages
    assert delivery.envelope.partition == 0
    assert delivery.envelope.size_bytes > 0
    assert not delivery.redelivered


async def test_a_publish_returns_once_the_envelope_is_safe(harness: Harness) -> None:
    confirmed = await harness.enqueue(envelope(1, 1))
    consumer = await harness.broker.consume(0, prefetch=10)
    (delivery,) = await receive(consumer, 1)
    await consumer.ack(delivery)
    async with asyncio.timeout(WAIT_S):
        await confirmed


async def test_envelopes_of_one_partition_are_delivered_in_publish_order(harness: Harness) -> None:
    for n in range(1, 51):
        await harness.enqueue(envelope(n, n))
    consumer = await harness.broker.consume(0, prefetch=100)
    deliveries = await receive(consumer, 50)
    assert numbers(deliveries) == list(range(1, 51))
    assert [d.tag for d in deliveries] == sorted({d.tag for d in deliveries})


async def test_a_consumer_that_waits_gets_what_is_published_later(harness: Harness) -> None:
    consumer = await harness.broker.consume(0, prefetch=10)
    waiting = asyncio.create_task(receive(consumer, 1))
    await asyncio.sleep(0)
    await harness.enqueue(envelope(1, 1))
    assert numbers(await waiting) == [1]


async def test_partitions_are_apart(harness: Harness) -> None:
    consumers = [await harness.broker.consume(partition, prefetch=10) for partition in (0, 1)]
    await harness.enqueue(envelope(1, 1, partition=1))
    assert numbers(await receive(consumers[1], 1)) == [1]
    await assert_silent(consumers[0])


async def test_no_more_than_the_prefetch_is_out_unacked(harness: Harness) -> None:
    for n in range(1, 6):
        await harness.enqueue(envelope(n, n))
    consumer = await harness.broker.consume(0, prefetch=2)
    first, second = await receive(consumer, 2)
    await assert_silent(consumer)
    await consumer.ack(first)
    (third,) = await receive(consumer, 1)
    await assert_silent(consumer)
    await consumer.ack(third)
    assert numbers([first, second, third, *await receive(consumer, 2)]) == [1, 2, 3, 4, 5]


async def test_one_ack_covers_every_earlier_delivery(harness: Harness) -> None:
    confirms = [await harness.enqueue(envelope(n, n)) for n in range(1, 6)]
    consumer = await harness.broker.consume(0, prefetch=10)
    deliveries = await receive(consumer, 5)
    await consumer.ack(deliveries[2])
    await until_queued(harness, 2)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*confirms[:3])
    await harness.kill(consumer)
    following = await harness.broker.consume(0, prefetch=10)
    assert numbers(await receive(following, 2)) == [4, 5]


async def test_an_older_ack_after_a_newer_one_changes_nothing(harness: Harness) -> None:
    for n in (1, 2, 3):
        await harness.enqueue(envelope(n, n))
    consumer = await harness.broker.consume(0, prefetch=10)
    deliveries = await receive(consumer, 3)
    await consumer.ack(deliveries[2])
    await consumer.ack(deliveries[0])
    await until_queued(harness, 0)
    await harness.enqueue(envelope(4, 4))
    assert numbers(await receive(consumer, 1)) == [4]


async def test_what_a_dead_consumer_had_not_acked_comes_again_in_the_original_order(harness: Harness) -> None:
    for n in range(1, 9):
        await harness.enqueue(envelope(n, n))
    consumer = await harness.broker.consume(0, prefetch=5)
    deliveries = await receive(consumer, 5)
    await consumer.ack(deliveries[1])
    await until_queued(harness, 6)
    await harness.kill(consumer)
    following = await harness.broker.consume(0, prefetch=10)
    again = await receive(following, 6)
    assert numbers(again) == [3, 4, 5, 6, 7, 8]
    assert all(d.redelivered for d in again[:3])
    assert not again[-1].redelivered
    await following.ack(again[-1])
    await until_queued(harness, 0)


async def test_what_died_twice_comes_a_third_time_in_order(harness: Harness) -> None:
    for n in (1, 2, 3):
        await harness.enqueue(envelope(n, n))
    for _ in range(2):
        consumer = await harness.broker.consume(0, prefetch=10)
        assert numbers(await receive(consumer, 3)) == [1, 2, 3]
        await harness.kill(consumer)
    consumer = await harness.broker.consume(0, prefetch=10)
    again = await receive(consumer, 3)
    assert numbers(again) == [1, 2, 3]
    assert all(d.redelivered for d in again)


async def test_one_consumer_is_active_and_the_next_one_takes_over(harness: Harness) -> None:
    active = await harness.broker.consume(0, prefetch=1)
    standby = await harness.broker.consume(0, prefetch=10)
    waiting = asyncio.create_task(receive(standby, 3))
    for n in (1, 2, 3):
        await harness.enqueue(envelope(n, n))
    assert numbers(await receive(active, 1)) == [1]
    await asyncio.sleep(QUIET_S)
    assert not waiting.done()
    await harness.kill(active)
    deliveries = await waiting
    assert numbers(deliveries) == [1, 2, 3]
    assert [d.redelivered for d in deliveries] == [True, False, False]


async def test_a_standby_that_asks_while_envelopes_wait_gets_none_of_them(harness: Harness) -> None:
    for n in (1, 2, 3):
        await harness.enqueue(envelope(n, n))
    active = await harness.broker.consume(0, prefetch=1)
    (first,) = await receive(active, 1)
    standby = await harness.broker.consume(0, prefetch=10)
    await assert_silent(standby)
    await active.ack(first)
    assert numbers(await receive(active, 1)) == [2]
    await assert_silent(standby)
    await active.close()
    assert numbers(await receive(standby, 2)) == [2, 3]


async def test_a_consumer_that_closes_gives_the_partition_up(harness: Harness) -> None:
    first = await harness.broker.consume(0, prefetch=10)
    await harness.enqueue(envelope(1, 1))
    await receive(first, 1)
    await first.close()
    await first.close()
    second = await harness.broker.consume(0, prefetch=10)
    (delivery,) = await receive(second, 1)
    assert delivery.redelivered


async def test_a_closed_consumer_neither_receives_nor_acks(harness: Harness) -> None:
    consumer = await harness.broker.consume(0, prefetch=10)
    await harness.enqueue(envelope(1, 1))
    (delivery,) = await receive(consumer, 1)
    waiting = asyncio.create_task(consumer.receive())
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(BrokerUnavailable):
        await waiting
    with pytest.raises(BrokerUnavailable):
        await consumer.receive()
    with pytest.raises(BrokerUnavailable):
        await consumer.ack(delivery)
    following = await harness.broker.consume(0, prefetch=10)
    assert numbers(await receive(following, 1)) == [1]


@pytest.mark.parametrize("patience_turns", range(6))
async def test_a_receive_that_is_cancelled_loses_nothing(harness: Harness, patience_turns: int) -> None:
    consumer = await harness.broker.consume(0, prefetch=10)
    for n in range(1, 6):
        waiting = asyncio.create_task(consumer.receive())
        await asyncio.sleep(0)
        publishing = asyncio.create_task(harness.enqueue(envelope(n, n)))
        for _ in range(patience_turns):
            await asyncio.sleep(0)
        waiting.cancel()
        (given,) = await asyncio.gather(waiting, return_exceptions=True)
        await publishing
        if isinstance(given, asyncio.CancelledError):
            (given,) = await receive(consumer, 1)
        assert isinstance(given, Delivery)
        assert numbers([given]) == [n]
        await consumer.ack(given)


async def test_waiting_never_counts_what_was_delivered(harness: Harness) -> None:
    consumer = await harness.broker.consume(0, prefetch=1)
    for n in (1, 11, 21):
        await harness.enqueue(envelope(n, n + 4))
    (delivery,) = await receive(consumer, 1)
    assert consumer.waiting() in {0, 10}
    await consumer.ack(delivery)
    (delivery,) = await receive(consumer, 1)
    assert consumer.waiting() in {0, 5}


async def test_at_the_byte_limit_an_envelope_is_refused_and_not_kept(harness: Harness) -> None:
    await harness.limit(3 * envelope(1, 1).size_bytes)
    taken = await fill(harness)
    consumer = await harness.broker.consume(0, prefetch=1_000)
    assert numbers(await receive(consumer, len(taken))) == taken
    await assert_silent(consumer)


async def test_an_ack_makes_room_in_a_full_partition(harness: Harness) -> None:
    await harness.limit(3 * envelope(1, 1).size_bytes)
    taken = await fill(harness)
    consumer = await harness.broker.consume(0, prefetch=1_000)
    deliveries = await receive(consumer, len(taken))
    await consumer.ack(deliveries[-1])
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await harness.enqueue(envelope(5_000, 5_000))
                break
            except BrokerFull:
                await asyncio.sleep(0.01)
    assert numbers(await receive(consumer, 1)) == [5_000]


async def test_a_full_partition_does_not_fill_another(harness: Harness) -> None:
    await harness.limit(envelope(1, 1).size_bytes)
    await fill(harness)
    await harness.enqueue(envelope(3, 3, partition=1))
    await until_queued(harness, 1, partition=1)


async def test_without_a_confirm_in_time_a_publish_fails_and_may_be_delivered_all_the_same(harness: Harness) -> None:
    sent = envelope(1, 2)
    with pytest.raises(BrokerUnavailable):
        await harness.publish_unconfirmed(sent)
    again = await harness.enqueue(sent)
    consumer = await harness.broker.consume(0, prefetch=10)
    deliveries = await receive(consumer, 1)
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(QUIET_S):
                deliveries.append(await consumer.receive())
    assert all(d.envelope.messages == sent.messages for d in deliveries)
    await consumer.ack(deliveries[-1])
    async with asyncio.timeout(WAIT_S):
        await again
    await until_queued(harness, 0)


async def test_a_publish_that_is_cancelled_leaves_the_broker_working(harness: Harness) -> None:
    publishing = asyncio.create_task(harness.broker.publish(envelope(1, 1)))
    await asyncio.sleep(0)
    await cancel(publishing)
    await harness.enqueue(envelope(2, 2))
    consumer = await harness.broker.consume(0, prefetch=10)
    seen: list[int] = []
    while 2 not in seen:
        seen += numbers(await receive(consumer, 1))
    assert seen in ([2], [1, 2])


async def test_a_broker_that_is_gone_says_so_everywhere(harness: Harness) -> None:
    consumer = await harness.broker.consume(0, prefetch=10)
    waiting = asyncio.create_task(consumer.receive())
    await asyncio.sleep(0)
    await harness.broker.ping()
    assert harness.broker.open_channels > 0
    await harness.stop()
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(WAIT_S):
            await waiting
    assert harness.broker.open_channels == 0
    with pytest.raises(BrokerUnavailable):
        await harness.broker.ping()
    with pytest.raises(BrokerUnavailable):
        await harness.broker.publish(envelope(1, 1))
    with pytest.raises(BrokerUnavailable):
        await harness.broker.consume(0, prefetch=10)


async def test_what_waits_for_a_confirm_fails_with_the_broker(harness: Harness) -> None:
    confirms = [await harness.enqueue(envelope(1, 1)), await harness.enqueue(envelope(2, 2))]
    unsettled = [task for task in confirms if not task.done()]
    consumer = await harness.broker.consume(0, prefetch=1)
    await receive(consumer, 1)
    await harness.stop()
    for task in unsettled:
        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(WAIT_S):
                await task


async def test_publishers_and_a_mortal_consumer_lose_nothing_and_keep_the_order(harness: Harness) -> None:
    """Every consumer dies after a few deliveries, some of them acked; what is acked is never seen again."""
    publishing = [await harness.enqueue(envelope(n, n)) for n in range(1, 61)]
    acked: list[int] = []
    life = 0
    while len(acked) < 60:
        life += 1
        consumer = await harness.broker.consume(0, prefetch=7)
        deliveries = await receive(consumer, min(7, 60 - len(acked)))
        assert numbers(deliveries) == list(range(len(acked) + 1, len(acked) + 1 + len(deliveries)))
        keep = deliveries[: life % 7 + 1]
        await consumer.ack(keep[-1])
        acked += numbers(keep)
        await until_queued(harness, 60 - len(acked))
        await harness.kill(consumer)
    assert acked == list(range(1, 61))
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*publishing)


async def test_the_memory_broker_counts_what_is_out_for_delivery_against_the_limit() -> None:
    harness = MemoryHarness()
    one = envelope(1, 1)
    await harness.limit(2 * one.size_bytes)
    consumer = await harness.broker.consume(0, prefetch=10)
    for n in (1, 2):
        await harness.enqueue(envelope(n, n))
    first, _ = await receive(consumer, 2)
    with pytest.raises(BrokerFull):
        await harness.broker.publish(envelope(3, 3))
    await consumer.ack(first)
    await harness.enqueue(envelope(4, 4))
    assert numbers(await receive(consumer, 1)) == [4]
    await harness.aclose()


async def test_the_memory_broker_confirms_nothing_that_was_not_acked() -> None:
    harness = MemoryHarness()
    confirms = [await harness.enqueue(envelope(n, n)) for n in (1, 2)]
    consumer = await harness.broker.consume(0, prefetch=10)
    first, _ = await receive(consumer, 2)
    assert [task.done() for task in confirms] == [False, False]
    await harness.kill(consumer)
    assert [task.done() for task in confirms] == [False, False]
    consumer = await harness.broker.consume(0, prefetch=10)
    first, _ = await receive(consumer, 2)
    await consumer.ack(first)
    await eventually(confirms[0].done)
    assert not confirms[1].done()
    assert harness.broker.queued_bytes(0) == envelope(2, 2).size_bytes
    await harness.aclose()
    assert harness.broker.queued_bytes(0) == 0
