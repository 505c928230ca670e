"""Brokers, consumers and conditions that the RabbitMQ tests share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika

from chatflow.adapters.rabbitmq.broker import RabbitBroker, open_broker
from chatflow.adapters.rabbitmq.consumer import RabbitConsumer
from chatflow.ports.broker import Delivery, Envelope
from chatflow.ports.errors import BrokerError

WAIT_S = 30.0
PARTITIONS = 4


@asynccontextmanager
async def running(*urls: str, **settings: Any) -> AsyncIterator[RabbitBroker]:
    """A broker that has started; closed at the end."""
    connect_timeout_s = settings.pop("connect_timeout_s", None)
    broker = open_broker(urls, **({"partitions": PARTITIONS, "queue_limit_bytes": 2**24} | settings))
    await broker.open()
    if connect_timeout_s is not None:  # for what the test does, and not for its start on a busy machine
        broker.publishing.connect_timeout_s = broker.consuming.connect_timeout_s = connect_timeout_s
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def raw_channel(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """What somebody else would use."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        yield channel


async def receive(consumer: RabbitConsumer, count: int) -> list[Delivery]:
    async with asyncio.timeout(WAIT_S):
        return [await consumer.receive() for _ in range(count)]


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(m.message_id[-12:], 16) for delivery in deliveries for m in delivery.envelope.messages]


async def publish_at_last(broker: RabbitBroker, envelope: Envelope) -> None:
    """Publish as the acceptor does: again, until it is confirmed."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await broker.publish(envelope)
            except BrokerError:
                await asyncio.sleep(0.01)


async def consume_at_last(broker: RabbitBroker, partition: int) -> RabbitConsumer:
    """Open a consumer as the processor does."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await broker.consume(partition, prefetch=100)
            except BrokerError:
                await asyncio.sleep(0.01)
