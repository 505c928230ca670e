"""The exchanges and queues that chatflow needs in a virtual host; all are checked before any is declared.

    exchange chatflow.ingest (direct)  --p-->  queue chatflow.ingest.<p>, quorum, single active consumer
    exchange chatflow.dead   (fanout)  ----->  queue chatflow.dead, quorum: rejected, or delivered too often
    exchange chatflow.live   (topic)   ----->  one exclusive queue for each subscriber
    queue    chatflow.partitions               holds nothing; its length limit is the number of partitions

The last one records the number of partitions. A queue's arguments cannot change, and the server compares them: of two
roles that start with different numbers on an empty broker exactly one succeeds, and a role that died half-way leaves a
record under which the next role completes the rest.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import aio_pika
import attrs
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelLockedResource

from chatflow.adapters.rabbitmq.errors import starting, was_cancelled
from chatflow.ports.errors import BrokerMisconfigured, BrokerUnavailable

INGEST = "chatflow.ingest"
LIVE = "chatflow.live"
DEAD = "chatflow.dead"
PARTITIONS = "chatflow.partitions"

ENDLESS_DELIVERIES = 1_000_000_000
"""Reading a dead letter counts as a delivery; by default a quorum queue of 4.x drops what was delivered 20 times."""

RESTORE_INTERVAL_S = 1.0

log = structlog.get_logger()

_DIFFERS = (ChannelPreconditionFailed, ChannelLockedResource)

Arguments = dict[str, Any]


@attrs.frozen
class DurableQueue:
    """A durable quorum queue; ``bound_to``: exchange and routing key."""

    name: str
    arguments: Arguments
    bound_to: tuple[str, str] | None = None

    async def exists(self, channel: AbstractChannel) -> None:
        """Raise ChannelNotFoundEntity if it does not."""
        await channel.declare_queue(self.name, passive=True)

    async def declare(self, channel: AbstractChannel) -> None:
        """Create it, or compare it with the existing one."""
        await channel.declare_queue(self.name, durable=True, arguments=self.arguments)

    async def bind(self, channel: AbstractChannel) -> None:
        """Bind it to its exchange."""
        if self.bound_to is not None:
            exchange, key = self.bound_to
            queue = await channel.get_queue(self.name, ensure=False)
            await queue.bind(exchange, key)


@attrs.frozen
class DurableExchange:
    """A durable exchange."""

    name: str
    kind: aio_pika.ExchangeType

    async def exists(self, channel: AbstractChannel) -> None:
        """Raise ChannelNotFoundEntity if it does not."""
        await channel.declare_exchange(self.name, passive=True)

    async def declare(self, channel: AbstractChannel) -> None:
        """Create it, or compare it with the existing one."""
        await channel.declare_exchange(self.name, self.kind, durable=True)


Part = DurableQueue | DurableExchange


def ingest_queue(partition: int) -> str:
    """The name of a partition's queue."""
    return f"{INGEST}.{partition}"


@attrs.frozen
class Topology:
    """The exchanges and queues for these settings.

    Attributes:
        queue_limit_bytes: of the bodies that wait in one partition; unacked deliveries are not counted.
        delivery_limit: deliveries before an envelope is dead-lettered. A consumer's death counts as one, so the limit
            must be far above the number of crashes that an envelope may survive.
    """

    partitions: int
    queue_limit_bytes: int
    delivery_limit: int

    def exchanges(self) -> list[DurableExchange]:
        """All of them."""
        kinds = aio_pika.ExchangeType
        return [
            DurableExchange(INGEST, kinds.DIRECT),
            DurableExchange(LIVE, kinds.TOPIC),
            DurableExchange(DEAD, kinds.FANOUT),
        ]

    def queues(self) -> list[DurableQueue]:
        """The record first, so that nothing exists without it.

        The dead letter queue has no limit, which would drop dead letters. Not ``x-dead-letter-strategy``: with
        ``at-least-once`` a server that was killed may come back with queues that never open (rabbitmq-server#16652).
        """
        record: Arguments = {"x-queue-type": "quorum", "x-max-length": self.partitions}
        ingest: Arguments = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-overflow": "reject-publish",
            "x-max-length-bytes": self.queue_limit_bytes,
            "x-delivery-limit": self.delivery_limit,
            "x-dead-letter-exchange": DEAD,
        }
        dead: Arguments = {"x-queue-type": "quorum", "x-delivery-limit": ENDLESS_DELIVERIES}
        return [
            DurableQueue(PARTITIONS, record),
            DurableQueue(DEAD, dead, (DEAD, "")),
            *(DurableQueue(ingest_queue(p), ingest, (INGEST, str(p))) for p in range(self.partitions)),
        ]

    async def establish(self, connection: AbstractConnection) -> None:
        """Check everything that exists, then declare what is missing; change nothing that exists.

        Raises:
            BrokerMisconfigured: something differs; nothing was declared.
            BrokerUnavailable: no answer; try again.
        """
        queues, exchanges = self.queues(), self.exchanges()
        with starting("declare"):
            await self._check(connection, [*queues, *exchanges])
            parts: list[Part] = [queues[0], *exchanges, *queues[1:]]
            async with connection.channel() as channel:
                try:
                    for part in parts:
                        await part.declare(channel)
                except _DIFFERS as exc:  # another role was faster, with other settings
                    raise BrokerMisconfigured([self._difference(exc)]) from exc
                for queue in queues:
                    await queue.bind(channel)

    async def _check(self, connection: AbstractConnection, parts: Sequence[Part]) -> None:
        beyond = DurableQueue(ingest_queue(self.partitions), {})
        existing = await existing_of(connection, [*parts, beyond])
        differences = []
        for part in existing:
            if part is beyond:
                differences.append(f"{part.name} exists, so the broker has more than {self.partitions} partitions")
                continue
            try:
                async with connection.channel() as channel:
                    await part.declare(channel)
            except _DIFFERS as exc:
                differences.append(self._difference(exc))
        if differences:
            raise BrokerMisconfigured(differences)

    def _difference(self, error: Exception) -> str:
        text = str(error).removeprefix("PRECONDITION_FAILED - ")
        if f"'{PARTITIONS}'" not in text:
            return text
        found = re.search(r"current is (?:the value )?'(\d+)'", text)
        return f"the broker is set up for {found[1] if found else 'other'} partitions, not {self.partitions}"


@attrs.define(eq=False)
class TopologyRestorer:
    """Declares the topology again when a part of it was deleted while the program runs."""

    topology: Topology
    _restored_at: float = attrs.field(default=float("-inf"), init=False)

    async def __call__(self, connection: AbstractConnection) -> None:
        """Declare what is missing, at most once a second.

        Raises:
            BrokerUnavailable: not restored; try again.
        """
        if time.monotonic() - self._restored_at < RESTORE_INTERVAL_S:
            return
        self._restored_at = time.monotonic()
        try:
            await self.topology.establish(connection)
        except BrokerMisconfigured as exc:
            log.error("broker.misconfigured", differences=exc.differences)  # noqa: TRY400 the sentences say it all
            raise BrokerUnavailable(str(exc)) from exc
        log.warning("broker.topology_restored")


async def existing_of(connection: AbstractConnection, parts: Sequence[Part]) -> list[Part]:
    """The parts that exist; each missing one costs a channel, which AMQP closes to say no."""
    found: list[Part] = []
    remaining = list(reversed(parts))
    while remaining:
        try:
            async with connection.channel() as channel:
                while remaining:
                    await remaining[-1].exists(channel)
                    found.append(remaining.pop())
        except ChannelNotFoundEntity as exc:
            if was_cancelled():  # the driver raises this instead of a simultaneous cancellation
                raise asyncio.CancelledError from exc
            if "no queue" not in str(exc) and "no exchange" not in str(exc):
                raise  # it exists, on a node that is down
            remaining.pop()
    return found
