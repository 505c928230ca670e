"""Twenty processors, and every envelope delivered at least twice: no row and no counter changes.

Each processor has connections of its own to RabbitMQ and a pool of its own to MariaDB. Whoever is the first to get an
envelope dies between the commit and the ack, and connections are cut besides in the middle of whatever happens; the
broker then gives the envelope to the next one, perhaps while the first still commits it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import attrs
import pytest

from chatflow.adapters.rabbitmq.broker import RabbitBroker
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.domain.auditing import Ack, audit
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor, run_processors
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.entrypoints.clocks import now_us
from chatflow.ports.broker import Consumer, Delivery, envelope_of
from chatflow.ports.errors import BrokerUnavailable
from chatflow.ports.messages import Message
from tests.contract.store_cases import message
from tests.contract.store_maria import fresh_url, maria_schemas
from tests.harness.rabbit import RabbitServer
from tests.integration.rabbitmq_cases import running

__all__ = ["fresh_url", "maria_schemas"]

PARTITIONS = 8
PROCESSORS = 20
ROOMS = [f"room.{number}" for number in range(24)]
ENVELOPES = 40
"""In each partition."""
CUTS = 40
WAIT_S = 90.0
Envelope = tuple[str, ...]
"""The ids of the messages in it, which tell envelopes of this test apart."""


@attrs.define(eq=False)
class Deliveries:
    """How often each envelope was given out, and which ones the broker called redelivered."""

    given: Counter[Envelope] = attrs.field(factory=Counter)
    redelivered: set[Envelope] = attrs.field(factory=set)
    consumers: int = 0
    _begun: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def opened(self) -> None:
        """Nobody takes anything before all stand in line."""
        self.consumers += 1
        if self.consumers >= PROCESSORS * PARTITIONS:
            self._begun.set()

    async def begun(self) -> None:
        await self._begun.wait()

    def count(self, delivery: Delivery) -> Envelope:
        envelope = ids_of(delivery.envelope.messages)
        self.given[envelope] += 1
        if delivery.redelivered:
            self.redelivered.add(envelope)
        return envelope


@attrs.define(eq=False)
class MortalConsumer:
    """Counts what it gets, and dies when it should ack what nobody was given before."""

    consumer: Consumer
    deliveries: Deliveries
    _unacked: list[tuple[int, Envelope]] = attrs.field(factory=list, init=False)

    async def receive(self) -> Delivery:
        await self.deliveries.begun()
        delivery = await self.consumer.receive()
        self._unacked.append((delivery.tag, self.deliveries.count(delivery)))
        return delivery

    def waiting(self) -> int:
        return self.consumer.waiting()

    async def ack(self, up_to: Delivery) -> None:
        if any(self.deliveries.given[envelope] < 2 for tag, envelope in self._unacked if tag <= up_to.tag):
            raise BrokerUnavailable("killed between the commit and the ack")
        self._unacked = [(tag, envelope) for tag, envelope in self._unacked if tag > up_to.tag]
        await self.consumer.ack(up_to)

    async def close(self) -> None:
        await self.consumer.close()


@attrs.define(eq=False)
class MortalBroker:
    """A broker as one processor sees it."""

    broker: RabbitBroker
    deliveries: Deliveries

    async def consume(self, partition: int, *, prefetch: int) -> MortalConsumer:
        consumer = MortalConsumer(await self.broker.consume(partition, prefetch=prefetch), self.deliveries)
        self.deliveries.opened()
        return consumer


@attrs.define(eq=False)
class NoLive:
    async def publish_live(self, envelope: object) -> None:
        pass


@attrs.frozen(eq=False)
class Processor:
    """What one process runs, with everything of its own."""

    broker: RabbitBroker
    partitions: list[PartitionProcessor]
    metrics: PersistenceMetrics


def ids_of(messages: Sequence[Message]) -> Envelope:
    return tuple(each.message_id for each in messages)


def all_envelopes(draw: random.Random) -> dict[int, list[list[Message]]]:
    """For each partition: new messages, some of them twice in one envelope, and some of earlier envelopes again."""
    envelopes: dict[int, list[list[Message]]] = {partition: [] for partition in range(PARTITIONS)}
    rooms: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
    for room in ROOMS:
        rooms[partition_of(room, PARTITIONS)].append(room)
    for partition, mine in envelopes.items():
        sent: list[Message] = []
        for number in range(ENVELOPES):
            fresh = [message(draw.choice(rooms[partition]), draw.randrange(1, 12), f"{number}") for _ in range(12)]
            twice = draw.sample(fresh, 2)
            again = draw.sample(sent, min(len(sent), 4))
            mine.append([*fresh[:6], *again, *fresh[6:], *twice])
            sent += fresh
    return envelopes


def broker_of(url: str) -> AbstractAsyncContextManager[RabbitBroker]:
    return running(url, partitions=PARTITIONS, delivery_limit=10_000)


@asynccontextmanager
async def processor(
    vhost_url: str, database_url: str, deliveries: Deliveries, *, summaries: bool
) -> AsyncIterator[Processor]:
    database = open_database(database_url, writer_pool=4, reader_pool=1)
    try:
        async with broker_of(vhost_url) as broker:
            metrics, breaker = PersistenceMetrics(), CircuitBreaker(time.monotonic)
            store = SqlMessageStore(database, now_us, summaries=summaries)
            persister = Persister(store, NoLive(), metrics, time.monotonic, now_us)
            loops = [
                PartitionProcessor(
                    partition,
                    MortalBroker(broker, deliveries),
                    persister,
                    breaker,
                    BatchPolicy(),
                    metrics,
                    new_buffer=lambda: WriteBehindBuffer(100, 2**20),
                    prefetch=1 + partition % 4,  # with 1 the turn goes round, with more envelopes are stored together
                )
                for partition in range(PARTITIONS)
            ]
            yield Processor(broker, loops, metrics)
    finally:
        await database.close()


async def cut_now_and_then(processors: Sequence[Processor], draw: random.Random) -> None:
    """Once each had its turn, end connections in the middle of whatever their processors are doing."""
    while not all(each.metrics.consumed for each in processors):
        await asyncio.sleep(0.01)
    for _ in range(CUTS):
        await asyncio.sleep(0.02)
        with suppress(BrokerUnavailable):
            draw.choice(processors).broker.consuming.connection().abort()


async def until_held(server: RabbitServer, url: str, envelopes: int) -> None:
    """Wait until the broker says that it holds so many, given out or not."""
    vhost = url.rsplit("/", 1)[1]
    while sum(queue.messages for queue in (await asyncio.to_thread(server.queues, vhost)).values()) != envelopes:
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    "summaries", [pytest.param(False, marks=pytest.mark.long), True], ids=["no summaries", "summaries"]
)
async def test_twenty_processors_worth_of_redelivery_changes_no_row_and_no_counter(
    rabbit_server: RabbitServer, vhost_url: str, fresh_url: str, summaries: bool
) -> None:
    draw = random.Random(f"redelivery {summaries}")
    envelopes = all_envelopes(draw)
    published = {ids_of(envelope) for mine in envelopes.values() for envelope in mine}
    distinct = {each.message_id: each for mine in envelopes.values() for envelope in mine for each in envelope}
    deliveries = Deliveries()
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        sender = await stack.enter_async_context(broker_of(vhost_url))
        for partition, mine in envelopes.items():
            for envelope in mine:
                await sender.publish(envelope_of(partition, envelope))
        await until_held(rabbit_server, vhost_url, len(published))
        processors = [
            await stack.enter_async_context(processor(vhost_url, fresh_url, deliveries, summaries=summaries))
            for _ in range(PROCESSORS)
        ]
        running = [asyncio.create_task(run_processors(each.partitions)) for each in processors]
        await cut_now_and_then(processors, draw)
        await until_held(rabbit_server, vhost_url, 0)
        for each in processors:
            for loop in each.partitions:
                loop.stop()
        await asyncio.gather(*running)

    assert set(deliveries.given) == published
    assert min(deliveries.given.values()) >= 2
    assert deliveries.redelivered == published
    assert all(each.metrics.consumed for each in processors)
    assert sum(each.metrics.dead_lettered for each in processors) == 0
    assert sum(each.metrics.duplicates for each in processors) >= len(distinct)

    database = open_database(fresh_url)
    try:
        ledger = [Ack(each.message_id, each.room_id) for each in distinct.values()]
        report = await audit(SqlAuditor(database), summaries=summaries, ledger=ledger)
    finally:
        await database.close()
    assert report.findings == []
    assert (report.messages, report.acks) == (len(distinct), len(distinct))
    assert report.is_clean
