"""Consumers that lose their queue, meet garbage, or die; and what becomes of the dead."""

import asyncio

import aio_pika
import pytest
from structlog.testing import capture_logs

from chatflow.adapters.rabbitmq import consumer as consumers
from chatflow.adapters.rabbitmq.broker import RabbitBroker
from chatflow.adapters.rabbitmq.codec import SCHEMA_HEADER
from chatflow.adapters.rabbitmq.topology import DEAD, INGEST, ingest_queue
from chatflow.domain.persistence.replay import oldest
from chatflow.ports.broker import DeadEnvelope, DeadLetterQueue
from chatflow.ports.errors import BrokerUnavailable
from tests.harness.rabbit import RabbitServer
from tests.harness.waiting import eventually
from tests.integration.rabbitmq_cases import WAIT_S, consume_at_last, numbers, raw_channel, receive, running
from tests.unit.fakes import envelope, message_id

GARBAGE: list[tuple[bytes, dict[str, int]]] = [
    (b"hello", {SCHEMA_HEADER: 1}),
    (b"", {SCHEMA_HEADER: 1}),
    (b"[]", {SCHEMA_HEADER: 1}),
    (b'[{"message_id":"\xff"}]', {SCHEMA_HEADER: 1}),
    (b'[{"message_id":"x"}]', {SCHEMA_HEADER: 1}),
    (b'[{"x":' + b"[" * 100_000, {SCHEMA_HEADER: 1}),
    (b"[]", {}),
    (b"[]", {SCHEMA_HEADER: 2}),
]


async def peek(dead: DeadLetterQueue, *, limit: int = 100) -> list[DeadEnvelope]:
    """The oldest ones; all stay where they are."""
    try:
        return [letter async for letter in oldest(dead, limit=limit)]
    finally:
        await dead.close()


async def come_back(dead: DeadLetterQueue, count: int) -> None:
    """Wait until so many are there to be taken: the server takes a moment to show again what a reader has put back."""
    async with asyncio.timeout(WAIT_S):
        while await dead.waiting() < count:
            await asyncio.sleep(0.01)


async def dead_of(broker: RabbitBroker, count: int) -> list[DeadEnvelope]:
    """Wait until so many can be seen, see `come_back`."""
    async with asyncio.timeout(WAIT_S):
        while len(found := await peek(broker.dead())) < count:
            await asyncio.sleep(0.05)
    return found


async def test_garbage_goes_to_the_dead_and_the_stream_goes_on(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        await broker.publish(envelope(1, 1))
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(INGEST)
            for body, headers in GARBAGE:
                await exchange.publish(aio_pika.Message(body, headers=dict(headers)), "0")
        await broker.publish(envelope(2, 2))
        consumer = await broker.consume(0, prefetch=100)
        with capture_logs() as logs:
            first, second = await receive(consumer, 2)
        assert numbers([first, second]) == [1, 2]
        assert [line["event"] for line in logs] == ["broker.envelope_rejected"] * len(GARBAGE)
        await consumer.ack(second)
        found = await dead_of(broker, len(GARBAGE))
        assert sorted(letter.body for letter in found) == sorted(body for body, _ in GARBAGE)
        assert {letter.reason for letter in found} == {"rejected"}
        assert {letter.queue for letter in found} == {ingest_queue(0)}
        assert {letter.count for letter in found} == {1}
        assert all(letter.messages == () and letter.unreadable for letter in found)
        assert len({letter.id for letter in found}) == len(GARBAGE)


async def test_an_ack_that_is_alone_is_sent_after_a_moment(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker, running(vhost_url) as other:
        for n in (1, 2):
            await broker.publish(envelope(n, n))
        consumer = await broker.consume(0, prefetch=100)
        first, _ = await receive(consumer, 2)
        await consumer.ack(first)
        await asyncio.sleep(0.5)
        proxy.cut()
        again = await other.consume(0, prefetch=100)
        assert numbers(await receive(again, 1)) == [2]


async def test_acks_that_are_many_do_not_wait(vhost_url: str, monkeypatch) -> None:
    monkeypatch.setattr(consumers, "ACK_DELAY_S", 3600)
    async with running(vhost_url) as broker:
        for n in range(1, 5):
            await broker.publish(envelope(n, n))
        consumer = await broker.consume(0, prefetch=2)
        for _ in range(4):
            (delivery,) = await receive(consumer, 1)
            await consumer.ack(delivery)


async def test_closing_sends_what_is_owed(vhost_url: str, monkeypatch) -> None:
    monkeypatch.setattr(consumers, "ACK_DELAY_S", 3600)
    async with running(vhost_url) as broker:
        for n in (1, 2):
            await broker.publish(envelope(n, n))
        consumer = await broker.consume(0, prefetch=100)
        first, _ = await receive(consumer, 2)
        await consumer.ack(first)
        await consumer.close()
        assert numbers(await receive(await broker.consume(0, prefetch=100), 1)) == [2]


async def test_a_rejection_that_is_cancelled_happens_once(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        consumer = await broker.consume(0, prefetch=100)
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(INGEST)
            for _ in range(20):
                await exchange.publish(aio_pika.Message(b"no"), "0")
        await broker.publish(envelope(1, 1))
        for turns in range(1, 50):
            waiting = asyncio.create_task(consumer.receive())
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            waiting.cancel()
            (given,) = await asyncio.gather(waiting, return_exceptions=True)
            if not isinstance(given, asyncio.CancelledError):
                break
        else:
            (given,) = await receive(consumer, 1)
        assert numbers([given]) == [1]
        await consumer.ack(given)
        assert len(await dead_of(broker, 20)) == 20


async def test_an_envelope_that_was_given_out_too_often_goes_to_the_dead(vhost_url: str) -> None:
    async with running(vhost_url, delivery_limit=2) as broker:
        await broker.publish(envelope(1, 3))
        for _ in range(3):
            consumer = await broker.consume(0, prefetch=1)
            assert numbers(await receive(consumer, 1)) == [1, 2, 3]
            await consumer.close()
        await broker.publish(envelope(4, 4))
        consumer = await broker.consume(0, prefetch=10)
        assert numbers(await receive(consumer, 1)) == [4]
        (letter,) = await dead_of(broker, 1)
        assert letter.reason == "delivery_limit"
        assert (letter.messages, letter.unreadable) == (envelope(1, 3).messages, "")
        assert letter.died_at_s is not None


async def test_the_dead_are_taken_one_by_one_and_kept_until_settled(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(DEAD)
            for n in range(3):
                await exchange.publish(aio_pika.Message(str(n).encode()), f"{n}")
        letters = broker.dead()
        assert [letter.body for letter in await peek(letters, limit=2)] == [b"0", b"1"]
        await come_back(letters, 3)
        first, second = await letters.take(), await letters.take()
        assert first is not None
        assert second is not None
        assert (first.body, second.body, await letters.waiting()) == (b"0", b"1", 1)
        await letters.remove(first)
        await letters.close()
        assert [letter.body for letter in await dead_of(broker, 2)] == [b"1", b"2"]
        while (letter := await letters.take()) is not None:
            await letters.remove(letter)
        await letters.close()
        await letters.close()
        assert await peek(letters) == []


async def test_a_letter_of_a_lost_connection_is_not_settled_on_the_next(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker:
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(DEAD)
            await exchange.publish(aio_pika.Message(b"body"), "0")
        letters = broker.dead()
        first = await letters.take()
        assert first is not None
        proxy.cut()
        await eventually(lambda: not broker.consuming.is_up)
        await eventually(lambda: broker.consuming.is_up)
        await come_back(letters, 1)
        assert await letters.take() is not None
        with pytest.raises(BrokerUnavailable):
            await letters.remove(first)
        await letters.close()
        assert len(await dead_of(broker, 1)) == 1


async def test_looking_at_the_dead_many_times_loses_none(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(DEAD)
            await exchange.publish(aio_pika.Message(b"body"), "0")
        for _ in range(30):
            assert len(await dead_of(broker, 1)) == 1


async def test_a_deleted_queue_ends_the_consumer_and_the_next_one_brings_it_back(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        await broker.publish(envelope(1, 1))
        consumer = await broker.consume(0, prefetch=10)
        (delivery,) = await receive(consumer, 1)
        async with raw_channel(vhost_url) as channel:
            await channel.queue_delete(ingest_queue(0))
        with pytest.raises(BrokerUnavailable):
            await receive(consumer, 1)
        with pytest.raises(BrokerUnavailable):
            await consumer.ack(delivery)
        await consumer.close()
        consumer = await consume_at_last(broker, 0)
        await broker.publish(envelope(2, 2))
        assert numbers(await receive(consumer, 1)) == [2]


async def test_a_lost_connection_ends_the_consumer_and_its_deliveries_come_again(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker:
        for n in range(1, 6):
            await broker.publish(envelope(n, n))
        consumer = await broker.consume(0, prefetch=3)
        old = await receive(consumer, 2)
        proxy.cut()
        with pytest.raises(BrokerUnavailable):
            await receive(consumer, 2)
        again = await consume_at_last(broker, 0)
        assert numbers(await receive(again, 5)) == [1, 2, 3, 4, 5]
        with pytest.raises(BrokerUnavailable):
            await consumer.ack(old[-1])
        await consumer.close()


async def test_a_frozen_consumer_is_given_up_by_the_server_and_another_takes_over(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url), heartbeat_s=1) as frozen, running(vhost_url) as healthy:
        for n in range(1, 4):
            await healthy.publish(envelope(n, n))
        assert numbers(await receive(await frozen.consume(0, prefetch=2), 2)) == [1, 2]
        standby = await healthy.consume(0, prefetch=10)
        proxy.half_open("up")
        again = await receive(standby, 3)
        assert numbers(again) == [1, 2, 3]
        assert again[0].redelivered


async def test_waiting_is_what_the_server_has_and_what_was_not_taken_yet(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        for n in range(1, 51, 5):
            await broker.publish(envelope(n, n + 4))
        consumer = await broker.consume(0, prefetch=4)
        await receive(consumer, 1)
        await eventually(lambda: consumer.waiting() == 45)
        await receive(consumer, 3)
        assert consumer.waiting() == 30
        await consumer.close()


async def test_a_standby_waits_behind_a_prefetch_of_everything(rabbit_server: RabbitServer, vhost_url: str) -> None:
    async with running(vhost_url) as first, running(vhost_url) as second:
        active, standby = await first.consume(0, prefetch=100), await second.consume(0, prefetch=100)
        waiting = asyncio.create_task(receive(standby, 20))
        for n in range(1, 21):
            await first.publish(envelope(n, n))
        assert numbers(await receive(active, 20)) == list(range(1, 21))
        assert not waiting.done()
        await first.close()
        taken = await waiting
        assert [delivery.envelope.messages[0].message_id for delivery in taken] == [message_id(n) for n in range(1, 21)]
        assert all(delivery.redelivered for delivery in taken)
