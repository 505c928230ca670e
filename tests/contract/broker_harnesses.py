"""Every `Broker`, with everything that its suite does to it from outside."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import pytest

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.adapters.rabbitmq import compat
from chatflow.adapters.rabbitmq.broker import RabbitBroker, open_broker
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.consumer import RabbitConsumer
from chatflow.adapters.rabbitmq.public_connection import PublicConnection
from chatflow.adapters.rabbitmq.topology import ingest_queue
from chatflow.ports.broker import Broker, Consumer, Envelope
from tests.harness.rabbit import RabbitServer
from tests.unit.fakes import cancel

PARTITIONS = 4


class Harness(Protocol):
    """One technology. Its broker has at least 4 partitions."""

    broker: Broker

    async def enqueue(self, envelope: Envelope) -> asyncio.Task[None]:
        """Publish; return once it is in the queue, with a task that ends with the confirm.

        Raises:
            BrokerFull: it is not in the queue.
        """

    async def publish_unconfirmed(self, envelope: Envelope) -> None:
        """Publish while no confirm comes in time; raises what the adapter raises."""

    async def kill(self, consumer: Consumer) -> None:
        """End a consumer as the death of its process does."""

    async def queued(self, partition: int) -> int:
        """Envelopes that are in the queue, the unacked ones included."""

    async def limit(self, limit_bytes: int) -> None:
        """From now on a partition holds about so many bytes; called before anything is published."""

    async def stop(self) -> None:
        """Take the broker away for good."""

    async def aclose(self) -> None:
        """End everything."""


@attrs.define(eq=False)
class MemoryHarness:
    """In one process. The confirm is the consumer's ack, so each publish is followed in a task of its own."""

    broker: MemoryBroker = attrs.field(factory=lambda: MemoryBroker(partitions=PARTITIONS, confirm_timeout_s=60))
    tasks: list[asyncio.Task[None]] = attrs.field(factory=list)

    async def enqueue(self, envelope: Envelope) -> asyncio.Task[None]:
        task = asyncio.create_task(self.broker.publish(envelope))
        self.tasks.append(task)
        await asyncio.sleep(0)
        if task.done():
            task.result()
        return task

    async def publish_unconfirmed(self, envelope: Envelope) -> None:
        self.broker.confirm_timeout_s = 0.01
        try:
            await self.broker.publish(envelope)
        finally:
            self.broker.confirm_timeout_s = 60

    async def kill(self, consumer: Consumer) -> None:
        await consumer.close()

    async def queued(self, partition: int) -> int:
        queue = self.broker._queues[partition]
        return len(queue.waiting) + sum(len(consumer._unacked) for consumer in queue.consumers)

    async def limit(self, limit_bytes: int) -> None:
        self.broker.limit_bytes = limit_bytes

    async def stop(self) -> None:
        await self.broker.close()

    async def aclose(self) -> None:
        await self.broker.close()
        await cancel(*self.tasks)


@attrs.define(eq=False)
class RabbitFleet:
    """Publishes over one connection; every consumer has a connection of its own, as if in a process of its own."""

    url: str
    main: RabbitBroker
    consumers: dict[int, RabbitBroker] = attrs.field(factory=dict)

    async def publish(self, envelope: Envelope) -> None:
        await self.main.publish(envelope)

    async def consume(self, partition: int, *, prefetch: int) -> RabbitConsumer:
        self.main.consuming.connection()  # a broker that was taken away gets no new connections
        as_main = self.main.consuming.connection_class
        twin = attrs.evolve(
            self.main, consuming=ReconnectingConnection("consumer", (self.url,), connection_class=as_main)
        )
        await twin.consuming.start()
        consumer = await twin.consume(partition, prefetch=prefetch)
        self.consumers[id(consumer)] = twin
        return consumer

    @property
    def open_channels(self) -> int:
        return self.main.open_channels

    async def ping(self) -> None:
        await self.main.ping()

    async def close(self) -> None:
        for twin in self.consumers.values():
            await twin.consuming.close()
        await self.main.close()


@attrs.define(eq=False)
class RabbitHarness:
    """A real server, in a virtual host of the test's own."""

    server: RabbitServer
    url: str
    broker: RabbitFleet

    @property
    def vhost(self) -> str:
        return self.url.rsplit("/", 1)[1]

    async def enqueue(self, envelope: Envelope) -> asyncio.Task[None]:
        await self.broker.publish(envelope)
        confirmed = asyncio.create_task(asyncio.sleep(0))
        await confirmed
        return confirmed

    async def publish_unconfirmed(self, envelope: Envelope) -> None:
        deadlines = self.broker.main.publisher.deadlines
        deadlines.timeout_s, usual = 0.1, deadlines.timeout_s
        self.server.pause()
        try:
            while True:  # the signal takes a moment to reach every thread of the server
                await self.broker.publish(envelope)
        finally:
            self.server.resume()
            deadlines.timeout_s = usual

    async def kill(self, consumer: Consumer) -> None:
        link = self.broker.consumers[id(consumer)].consuming
        link.connection().abort()
        await link.close()

    async def queued(self, partition: int) -> int:
        queues = await asyncio.to_thread(self.server.queues, self.vhost)
        return queues[ingest_queue(partition)].messages

    async def limit(self, limit_bytes: int) -> None:
        """The same virtual host with other queues, since a queue's limit is for life."""
        await self.broker.close()
        for name in await asyncio.to_thread(self.server.queues, self.vhost):
            await asyncio.to_thread(self.server.api, "DELETE", f"queues/{self.vhost}/{name}")
        self.broker.main = open_broker([self.url], partitions=PARTITIONS, queue_limit_bytes=limit_bytes)
        await self.broker.main.open()

    async def stop(self) -> None:
        await self.broker.close()

    async def aclose(self) -> None:
        await self.broker.close()


async def memory(_: pytest.FixtureRequest) -> Harness:
    return MemoryHarness()


async def rabbitmq(request: pytest.FixtureRequest) -> RabbitHarness:
    url = request.getfixturevalue("vhost_url")
    main = open_broker([url], partitions=PARTITIONS, queue_limit_bytes=2**26)
    await main.open()
    return RabbitHarness(request.getfixturevalue("rabbit_server"), url, RabbitFleet(url, main))


def fail_self_check(request: pytest.FixtureRequest) -> None:
    """From now on the adapter does without private parts of its driver."""
    request.getfixturevalue("monkeypatch").setattr(compat, "CHECKS", {"a check of this test": lambda: False})


async def rabbitmq_fallback(request: pytest.FixtureRequest) -> Harness:
    fail_self_check(request)
    harness = await rabbitmq(request)
    assert harness.broker.main.consuming.connection_class is PublicConnection
    return harness


HARNESSES: dict[str, Callable[[pytest.FixtureRequest], Awaitable[Harness]]] = {
    "memory": memory,
    "rabbitmq": rabbitmq,
    "rabbitmq, self-check failed": rabbitmq_fallback,
}
