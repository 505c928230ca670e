"""What every `LiveChannel` promises. An adapter joins with a harness and a name in `HARNESSES`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import attrs
import pytest

from chatflow.adapters.memory.broker import MemoryLiveChannel
from chatflow.adapters.rabbitmq.broker import RabbitBroker, open_broker
from chatflow.ports.broker import LiveChannel, LiveEnvelope, LiveSubscription
from chatflow.ports.errors import BrokerUnavailable
from tests.contract.broker_harnesses import fail_self_check
from tests.unit.fakes import live, stored

WAIT_S = 10.0
QUIET_S = 0.05


class Harness(Protocol):
    """One technology."""

    @property
    def channel(self) -> LiveChannel:
        """Under test."""

    async def aclose(self) -> None:
        """End everything."""


@attrs.define(eq=False)
class MemoryHarness:
    """In one process."""

    channel: MemoryLiveChannel = attrs.field(factory=MemoryLiveChannel)

    async def aclose(self) -> None:
        assert self.channel._subscriptions == []


@attrs.define(eq=False)
class RabbitHarness:
    """A real server, in a virtual host of the test's own."""

    broker: RabbitBroker

    @property
    def channel(self) -> LiveChannel:
        return self.broker.live

    async def aclose(self) -> None:
        await self.broker.close()


async def memory(_: pytest.FixtureRequest) -> Harness:
    return MemoryHarness()


async def rabbitmq(request: pytest.FixtureRequest) -> Harness:
    broker = open_broker([request.getfixturevalue("vhost_url")], partitions=4, queue_limit_bytes=2**20)
    await broker.open()
    return RabbitHarness(broker)


async def rabbitmq_fallback(request: pytest.FixtureRequest) -> Harness:
    fail_self_check(request)
    return await rabbitmq(request)


HARNESSES: dict[str, Callable[[pytest.FixtureRequest], Awaitable[Harness]]] = {
    "memory": memory,
    "rabbitmq": rabbitmq,
    "rabbitmq, self-check failed": rabbitmq_fallback,
}


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness = await HARNESSES[request.param](request)
    yield harness
    await harness.aclose()


Subscribe = Callable[..., Awaitable[LiveSubscription]]


@pytest.fixture
async def subscribe(harness: Harness) -> AsyncIterator[Subscribe]:
    opened: list[LiveSubscription] = []

    async def open_one(*, limit: int = 100) -> LiveSubscription:
        opened.append(await harness.channel.subscribe(limit=limit))
        return opened[-1]

    yield open_one
    for subscription in opened:
        await subscription.close()


def one(n: int, partition: int = 0) -> LiveEnvelope:
    return live([stored(n)], partition)


async def receive(subscription: LiveSubscription, count: int = 1) -> list[LiveEnvelope | None]:
    async with asyncio.timeout(WAIT_S):
        return [await subscription.receive() for _ in range(count)]


async def drain(subscription: LiveSubscription) -> list[LiveEnvelope | None]:
    """What is there, until nothing comes for a while."""
    received: list[LiveEnvelope | None] = []
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(QUIET_S):
                received.append(await subscription.receive())
    return received


async def test_every_subscriber_gets_what_is_published_unchanged(harness: Harness, subscribe: Subscribe) -> None:
    subscriptions = [await subscribe() for _ in range(3)]
    sent = live([stored(1), stored(2), stored(1, "den")], partition=5)
    await harness.channel.publish_live(sent)
    for subscription in subscriptions:
        assert await receive(subscription) == [sent]


async def test_what_one_publisher_sends_to_a_partition_arrives_in_order(harness: Harness, subscribe: Subscribe) -> None:
    subscription = await subscribe()
    sent = [one(n) for n in range(1, 51)]
    for envelope in sent:
        await harness.channel.publish_live(envelope)
    assert await receive(subscription, 50) == sent


async def test_a_subscriber_that_waits_gets_what_comes(harness: Harness, subscribe: Subscribe) -> None:
    subscription = await subscribe()
    waiting = asyncio.create_task(receive(subscription))
    await asyncio.sleep(0)
    assert not waiting.done()
    await harness.channel.publish_live(one(1))
    assert await waiting == [one(1)]


async def test_a_subscriber_gets_every_partition(harness: Harness, subscribe: Subscribe) -> None:
    subscription = await subscribe()
    for partition in range(4):
        await harness.channel.publish_live(one(1, partition))
    received = await receive(subscription, 4)
    assert {envelope.partition for envelope in received if envelope} == {0, 1, 2, 3}


async def test_publishing_without_a_subscriber_goes_nowhere(harness: Harness, subscribe: Subscribe) -> None:
    await harness.channel.publish_live(one(1))
    subscription = await subscribe()
    await harness.channel.publish_live(one(2))
    assert await receive(subscription) == [one(2)]


async def test_a_subscriber_that_does_not_read_holds_at_most_its_limit_and_is_told_of_the_loss(
    harness: Harness, subscribe: Subscribe
) -> None:
    slow, fast = await subscribe(limit=3), await subscribe(limit=1_000)
    for n in range(1, 201):
        await harness.channel.publish_live(one(n))
    assert await receive(fast, 200) == [one(n) for n in range(1, 201)]
    received: list[LiveEnvelope | None] = []
    await harness.channel.publish_live(one(201))
    while one(201) not in received[-1:] and None not in received:
        received += await receive(slow)
    assert None in received
    assert len(received) <= 4


async def test_after_a_loss_the_subscription_goes_on(harness: Harness, subscribe: Subscribe) -> None:
    subscription, witness = await subscribe(limit=2), await subscribe(limit=100)
    lost = False
    while not lost:
        for n in range(1, 21):
            await harness.channel.publish_live(one(n))
        await receive(witness, 20)
        lost = None in await drain(subscription)
    await harness.channel.publish_live(one(100))
    received: list[LiveEnvelope | None] = []
    while one(100) not in received:
        received += await receive(subscription)
    assert len(received) <= 3


async def test_within_the_limit_nothing_is_lost(harness: Harness, subscribe: Subscribe) -> None:
    subscription = await subscribe(limit=5)
    for start in range(0, 50, 5):
        sent = [one(start + n) for n in range(1, 6)]
        for envelope in sent:
            await harness.channel.publish_live(envelope)
        assert await receive(subscription, 5) == sent


@pytest.mark.parametrize("patience_turns", range(6))
async def test_a_receive_that_is_cancelled_loses_nothing(
    harness: Harness, subscribe: Subscribe, patience_turns: int
) -> None:
    subscription = await subscribe()
    for n in range(1, 6):
        waiting = asyncio.create_task(subscription.receive())
        await asyncio.sleep(0)
        publishing = asyncio.create_task(harness.channel.publish_live(one(n)))
        for _ in range(patience_turns):
            await asyncio.sleep(0)
        waiting.cancel()
        (given,) = await asyncio.gather(waiting, return_exceptions=True)
        await publishing
        if isinstance(given, asyncio.CancelledError):
            (given,) = await receive(subscription)
        assert given == one(n)


async def test_a_closed_subscription_says_so_and_the_others_go_on(harness: Harness, subscribe: Subscribe) -> None:
    closed, other = await subscribe(), await subscribe()
    waiting = asyncio.create_task(closed.receive())
    await asyncio.sleep(0)
    await closed.close()
    await closed.close()
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(WAIT_S):
            await waiting
    with pytest.raises(BrokerUnavailable):
        await receive(closed)
    await harness.channel.publish_live(one(1))
    assert await receive(other) == [one(1)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await other.receive()
