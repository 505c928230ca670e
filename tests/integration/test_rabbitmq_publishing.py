"""Confirms, and everything that may come instead of one."""

import asyncio
import contextlib
import random
import time

import pytest

from chatflow.adapters.rabbitmq import compat
from chatflow.adapters.rabbitmq.broker import RabbitBroker
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.publisher import ConfirmDeadlines, ingest_route
from chatflow.adapters.rabbitmq.topology import ingest_queue
from chatflow.ports.broker import Envelope
from chatflow.ports.errors import BrokerUnavailable
from tests.harness.rabbit import RabbitServer
from tests.harness.waiting import eventually
from tests.integration.rabbitmq_cases import (
    WAIT_S,
    consume_at_last,
    numbers,
    publish_at_last,
    raw_channel,
    receive,
    running,
)
from tests.unit.fakes import cancel, envelope


@pytest.fixture(params=["direct", "fallback"])
def either_driver_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with the driver's private parts and without them."""
    if request.param == "fallback":
        monkeypatch.setattr(compat, "CHECKS", {"a check of this test": lambda: False})


def pending(broker: RabbitBroker) -> int:
    """Publishes that have left and wait for their confirms."""
    return sum(len(each.channel.confirmations) for each in broker.publisher.pool._channels if each is not None)


async def refused(broker: RabbitBroker, sent: Envelope) -> float:
    """The seconds until a publish was refused as unavailable."""
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(sent)
    return time.monotonic() - started


async def test_concurrent_publishes_to_a_partition_keep_the_order_of_their_calls(vhost_url: str) -> None:
    async with running(vhost_url, channels=3) as broker:
        sent = [(n, n % 4) for n in range(1, 401)]
        await asyncio.gather(*(broker.publish(envelope(n, n, partition=p)) for n, p in sent))
        for partition in range(4):
            consumer = await broker.consume(partition, prefetch=200)
            assert numbers(await receive(consumer, 100)) == [n for n, p in sent if p == partition]


async def test_no_more_than_the_limit_waits_for_confirms(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url), inflight=5) as broker:
        proxy.stall("down")
        publishing = [asyncio.create_task(broker.publish(envelope(n, n, partition=n % 4))) for n in range(1, 21)]
        await eventually(lambda: pending(broker) == 5)
        await asyncio.sleep(0.05)
        assert pending(broker) == 5
        proxy.heal()
        await asyncio.gather(*publishing)
        assert pending(broker) == 0


async def test_without_a_queue_an_envelope_is_refused_and_the_queue_comes_back(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        async with raw_channel(vhost_url) as channel:
            await channel.queue_delete(ingest_queue(1))
        await refused(broker, envelope(1, 1, partition=1))
        await broker.publish(envelope(2, 2, partition=1))
        consumer = await broker.consume(1, prefetch=10)
        assert numbers(await receive(consumer, 1)) == [2]


async def test_without_the_exchange_an_envelope_is_refused_and_the_exchange_comes_back(vhost_url: str) -> None:
    async with running(vhost_url, channels=1) as broker:
        async with raw_channel(vhost_url) as channel:
            await channel.exchange_delete("chatflow.ingest")
        await refused(broker, envelope(1, 1))
        await broker.publish(envelope(2, 2))


async def test_what_cannot_be_restored_stays_unavailable(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        async with raw_channel(vhost_url) as channel:
            await channel.queue_delete(ingest_queue(1))
            await channel.declare_queue(ingest_queue(1), durable=True)
        await refused(broker, envelope(1, 1, partition=1))
        await broker.publish(envelope(2, 2, partition=0))


async def test_without_a_confirm_in_time_a_publish_fails_and_the_next_one_succeeds(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url), confirm_timeout_s=0.2) as broker:
        proxy.stall("down")
        assert 0.1 <= await refused(broker, envelope(1, 1)) < 2
        proxy.heal()
        await publish_at_last(broker, envelope(2, 2))
        consumer = await broker.consume(0, prefetch=10)
        assert numbers(await receive(consumer, 2)) == [1, 2]


async def test_a_cut_connection_fails_what_waits_at_once_and_comes_back(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url), confirm_timeout_s=60) as broker:
        proxy.stall("down")
        publishing = [asyncio.create_task(broker.publish(envelope(n, n))) for n in (1, 2, 3)]
        await eventually(lambda: pending(broker) == 3)
        proxy.refuse()
        proxy.cut()
        async with asyncio.timeout(WAIT_S):
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 3
        assert not broker.publishing.is_up
        assert await refused(broker, envelope(4, 4)) < 0.5
        proxy.heal()
        await publish_at_last(broker, envelope(5, 5))
        assert broker.publishing.is_up


@pytest.mark.usefixtures("either_driver_path")
async def test_a_peer_that_vanishes_without_a_word_is_noticed(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url), heartbeat_s=1, confirm_timeout_s=60, connect_timeout_s=1) as broker:
        consumer = await broker.consume(0, prefetch=10)
        proxy.half_open()
        waiting = [asyncio.create_task(broker.publish(envelope(1, 1))), asyncio.create_task(consumer.receive())]
        async with asyncio.timeout(WAIT_S):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 2
        await eventually(lambda: not broker.publishing.is_up)
        proxy.heal()
        await publish_at_last(broker, envelope(2, 2))
        consumer = await consume_at_last(broker, 0)
        assert numbers(await receive(consumer, 1)) == [2]


@pytest.mark.usefixtures("either_driver_path")
async def test_a_blocked_connection_is_known_at_once_and_hinders_no_consumer(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    up_calls: list[bool] = []
    async with running(vhost_url, confirm_timeout_s=60, on_up=lambda: up_calls.append(True)) as broker:
        for n in (1, 2):
            await broker.publish(envelope(n, n))
        consumer = await broker.consume(0, prefetch=1)
        (first,) = await receive(consumer, 1)
        await asyncio.to_thread(rabbit_server.memory_alarm, on=True)
        assert await refused(broker, envelope(3, 3)) < WAIT_S  # RabbitMQ blocks a connection when it publishes
        assert not broker.publishing.is_up
        assert await refused(broker, envelope(4, 4)) < 0.5
        await consumer.ack(first)
        assert numbers(await receive(consumer, 1)) == [2]
        assert not up_calls
        await asyncio.to_thread(rabbit_server.memory_alarm, on=False)
        await publish_at_last(broker, envelope(5, 5))
        assert broker.publishing.is_up
        assert up_calls


async def test_a_role_that_starts_during_an_alarm_hears_of_it_with_its_first_publish(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    await asyncio.to_thread(rabbit_server.memory_alarm, on=True)
    async with running(vhost_url, confirm_timeout_s=60) as broker:
        assert await refused(broker, envelope(1, 1)) < WAIT_S
        assert not broker.publishing.is_up
        await asyncio.to_thread(rabbit_server.memory_alarm, on=False)
        await publish_at_last(broker, envelope(2, 2))


async def test_a_channel_that_the_server_closes_is_opened_again(vhost_url: str) -> None:
    async with running(vhost_url, channels=4) as broker:
        assert broker.open_channels == 4
        broken = broker.publisher.pool._channels[2]
        assert broken is not None
        await broken.channel.basic_ack(999)  # nothing was delivered: the server ends the channel
        await eventually(lambda: broker.open_channels == 3)
        for partition in range(4):
            await broker.publish(envelope(1, 1, partition=partition))
        assert broker.open_channels == 4


@pytest.mark.usefixtures("either_driver_path")
async def test_confirmed_envelopes_survive_a_killed_server_in_order(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url) as broker:
        confirmed = []
        for n in range(1, 51):
            await broker.publish(envelope(n, n))
            confirmed.append(n)
        consumer = await broker.consume(0, prefetch=10)
        deliveries = await receive(consumer, 10)
        rabbit_server.kill()
        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(WAIT_S):
                while True:
                    await consumer.receive()
        with pytest.raises(BrokerUnavailable):
            await consumer.ack(deliveries[-1])
        await consumer.close()
        await eventually(lambda: not broker.publishing.is_up)
        assert await refused(broker, envelope(51, 51)) < 0.5
        await asyncio.to_thread(rabbit_server.make_ready)
        await publish_at_last(broker, envelope(52, 52))
        consumer = await consume_at_last(broker, 0)
        again = await receive(consumer, 51)
        assert numbers(again) == [*confirmed, 52]
        await consumer.ack(again[-1])


async def test_a_stopped_server_costs_the_timeout_and_is_used_again_when_it_goes_on(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url, confirm_timeout_s=0.3) as broker:
        rabbit_server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                async with asyncio.timeout(2):
                    while True:  # the signal takes a moment to reach every thread of the server
                        await broker.publish(envelope(1, 1))
        finally:
            rabbit_server.resume()
        await publish_at_last(broker, envelope(2, 2))
        consumer = await broker.consume(0, prefetch=100)
        seen = numbers(await receive(consumer, 1))
        while 2 not in seen:
            seen += numbers(await receive(consumer, 1))
        assert seen[0] == 1
        assert set(seen[:-1]) == {1}


@pytest.mark.usefixtures("either_driver_path")
async def test_a_server_stopped_for_long_is_given_up_and_found_again(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url, heartbeat_s=1, confirm_timeout_s=0.2, connect_timeout_s=0.5) as broker:
        rabbit_server.pause()
        try:
            await eventually(lambda: not broker.publishing.is_up)
            assert await refused(broker, envelope(1, 1)) < 0.1
        finally:
            rabbit_server.resume()
        await publish_at_last(broker, envelope(2, 2))


async def test_closing_does_not_wait_for_a_server_that_has_stopped_reading(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url, heartbeat_s=60) as broker:
        connection = broker.publishing.connection()
        rabbit_server.pause()
        try:
            channel = await broker.publisher.pool.channel(0, connection)
            for _ in range(400):
                channel.publish(ingest_route(0), bytes(50_000))
            async with asyncio.timeout(WAIT_S):
                await broker.close()
        finally:
            rabbit_server.resume()
    assert connection.is_closed


async def test_closing_ends_a_reconnect_that_has_lost_its_cancellation(vhost_url: str, fault_proxy) -> None:
    proxy, is_first, again = fault_proxy(vhost_url), True, asyncio.Event()

    async def prepare(_: object) -> None:
        if not is_first:
            again.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    link = ReconnectingConnection("test", (proxy.url(vhost_url),), prepare=prepare)
    await link.start()
    is_first = False
    proxy.cut()
    async with asyncio.timeout(WAIT_S):
        await again.wait()
        await link.close()
    assert not link.is_up


async def test_deadlines_can_end_for_those_whose_time_is_just_up() -> None:
    deadlines = ConfirmDeadlines(0.01)
    waiting = asyncio.create_task(deadlines.within(asyncio.Event().wait()))
    await eventually(lambda: deadlines._running)
    time.sleep(0.02)  # the timer fires in the same turn as the end
    asyncio.get_running_loop().call_soon(deadlines.end_all)
    with pytest.raises(TimeoutError):
        await waiting
    waiting = asyncio.create_task(deadlines.within(asyncio.sleep(0)))
    deadlines.end_all()
    await waiting


async def test_a_cancellation_of_the_driver_is_not_taken_for_ones_own() -> None:
    async def ends_with_its_socket() -> None:
        with translated("wait"):
            raise asyncio.CancelledError

    with pytest.raises(BrokerUnavailable):
        await ends_with_its_socket()


async def test_a_cancelled_publish_is_cancelled(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker:
        proxy.stall("down")
        publishing = asyncio.create_task(broker.publish(envelope(1, 1)))
        await eventually(lambda: pending(broker) == 1)
        await cancel(publishing)
        assert publishing.cancelled()
        proxy.heal()
        await broker.publish(envelope(2, 2))


async def test_a_broker_that_is_closed_while_it_reconnects_leaves_nothing_behind(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker:
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not broker.publishing.is_up)
    await broker.close()
    assert broker.open_channels == 0
    await refused(broker, envelope(1, 1))


async def test_on_up_is_called_when_a_lost_connection_is_back(vhost_url: str, rabbit_server: RabbitServer) -> None:
    up_calls: list[float] = []
    async with running(vhost_url, on_up=lambda: up_calls.append(time.monotonic())) as broker:
        assert not up_calls
        rabbit_server.kill()
        await refused(broker, envelope(1, 1))
        await asyncio.to_thread(rabbit_server.restart)
        await eventually(lambda: up_calls)
        await broker.publish(envelope(1, 1))


async def test_a_healthy_server_is_not_taken_for_silent_in_a_lull(vhost_url: str) -> None:
    """It skips a heartbeat when something was sent since the one before, so a lull starts with up to a whole one."""
    async with running(vhost_url, heartbeat_s=1) as broker:
        connection, longest = broker.publishing.connection(), 0.0
        for n in range(12):
            await broker.publish(envelope(n % 8, n))
            lull_ends = time.monotonic() + 1.0 + random.random() / 2
            while time.monotonic() < lull_ends:
                assert broker.publishing.is_up, f"taken for silent after {connection.silent_s():.2f} s"
                longest = max(longest, connection.silent_s())
                await asyncio.sleep(0.01)
        assert longest > 0.75, "the server never skipped a heartbeat: this test shows nothing"


@pytest.mark.usefixtures("either_driver_path")
async def test_on_up_is_called_when_a_silent_server_speaks_again(vhost_url: str, fault_proxy) -> None:
    proxy, up_calls = fault_proxy(vhost_url), []
    async with running(proxy.url(vhost_url), heartbeat_s=4, on_up=lambda: up_calls.append(True)) as broker:
        connection = broker.publishing.connection()
        proxy.stall("down")
        await eventually(lambda: not broker.publishing.is_up)
        assert not up_calls
        proxy.heal()
        await eventually(lambda: up_calls)
        await broker.publish(envelope(1, 1))
        assert broker.publishing.connection() is connection
