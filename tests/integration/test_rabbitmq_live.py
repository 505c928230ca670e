"""The live channel reports the losses it can see."""

import asyncio

import aio_pika
import pytest

from chatflow.adapters.rabbitmq.topology import LIVE
from chatflow.ports.broker import LiveEnvelope, LiveSubscription
from chatflow.ports.errors import BrokerUnavailable
from tests.harness.rabbit import RabbitServer
from tests.harness.waiting import eventually
from tests.integration.rabbitmq_cases import WAIT_S, raw_channel, running
from tests.unit.fakes import live, stored


def one(n: int) -> LiveEnvelope:
    return live([stored(n)], n % 4)


async def receive(subscription: LiveSubscription) -> LiveEnvelope | None:
    async with asyncio.timeout(WAIT_S):
        return await subscription.receive()


async def live_queues(server: RabbitServer, url: str) -> list[dict[str, object]]:
    found = await asyncio.to_thread(server.queues, url.rsplit("/", 1)[1])
    arguments = [queue.arguments for name, queue in found.items() if not name.startswith("chatflow.")]
    # RabbitMQ 4 lists the type of every queue, RabbitMQ 3 that of those which were declared with it.
    return [{name: value for name, value in each.items() if name != "x-queue-type"} for each in arguments]


async def test_a_subscription_has_a_bounded_queue_that_goes_with_it(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url) as broker:
        subscription = await broker.live.subscribe(limit=77)
        assert await live_queues(rabbit_server, vhost_url) == [{"x-max-length": 77, "x-overflow": "drop-head"}]
        await subscription.close()
        assert await live_queues(rabbit_server, vhost_url) == []
        await broker.live.subscribe(limit=77)
    assert await live_queues(rabbit_server, vhost_url) == []


async def test_a_lost_connection_ends_a_subscription_and_the_next_one_starts_with_a_loss(
    vhost_url: str, fault_proxy
) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(vhost_url) as sender, running(proxy.url(vhost_url)) as receiver:
        subscription = await receiver.live.subscribe(limit=100)
        await sender.live.publish_live(one(1))
        assert await receive(subscription) == one(1)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(BrokerUnavailable):
            await receive(subscription)
        with pytest.raises(BrokerUnavailable):
            await receiver.live.subscribe(limit=100)
        await sender.live.publish_live(one(2))
        proxy.heal()
        await eventually(lambda: receiver.consuming.is_up)
        following = await receiver.live.subscribe(limit=100)
        await sender.live.publish_live(one(3))
        assert await receive(following) is None
        assert await receive(following) == one(3)


async def test_a_subscription_that_was_closed_leaves_no_loss_behind(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        await (await broker.live.subscribe(limit=100)).close()
        following = await broker.live.subscribe(limit=100)
        await broker.live.publish_live(one(1))
        assert await receive(following) == one(1)


async def test_publishing_while_the_broker_is_away_is_refused(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    async with running(proxy.url(vhost_url)) as broker:
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not broker.publishing.is_up)
        with pytest.raises(BrokerUnavailable):
            await broker.live.publish_live(one(1))


async def test_what_cannot_be_read_counts_as_lost(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        subscription = await broker.live.subscribe(limit=100)
        async with raw_channel(vhost_url) as channel:
            exchange = await channel.get_exchange(LIVE)
            await exchange.publish(aio_pika.Message(b"noise"), "0")
            await exchange.publish(aio_pika.Message(b"[]", headers={"chatflow-schema": 1}), "no partition")
        assert [await receive(subscription), await receive(subscription)] == [None, None]
        await broker.live.publish_live(one(1))
        assert await receive(subscription) == one(1)


async def test_a_deleted_live_exchange_comes_back_with_the_next_subscription(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        async with raw_channel(vhost_url) as channel:
            await channel.exchange_delete(LIVE)
        with pytest.raises(BrokerUnavailable):
            await broker.live.subscribe(limit=10)
        subscription = await broker.live.subscribe(limit=10)
        await broker.live.publish_live(one(1))
        assert await receive(subscription) == one(1)


async def test_a_deleted_subscription_queue_ends_the_subscription(rabbit_server: RabbitServer, vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        subscription = await broker.live.subscribe(limit=10)
        queues = await asyncio.to_thread(rabbit_server.queues, vhost_url.rsplit("/", 1)[1])
        (name,) = [name for name in queues if not name.startswith("chatflow.")]
        async with broker.consuming.connection().channel() as owner:  # nobody else may delete it
            await owner.queue_delete(name)
        with pytest.raises(BrokerUnavailable):
            await receive(subscription)
        following = await broker.live.subscribe(limit=10)
        assert await receive(following) is None


async def test_a_connection_that_only_receives_deliveries_is_not_given_up(vhost_url: str) -> None:
    """The server sends no heartbeats then, and the driver allows 6 seconds without a frame."""
    async with running(vhost_url) as sender, running(vhost_url, heartbeat_s=1) as receiver:
        subscription = await receiver.live.subscribe(limit=100)
        connection = receiver.consuming.connection()
        ends = asyncio.get_running_loop().time() + 9
        while asyncio.get_running_loop().time() < ends:
            await sender.live.publish_live(one(1))
            assert await receive(subscription) == one(1)
            await asyncio.sleep(0.05)
        assert receiver.consuming.connection() is connection
