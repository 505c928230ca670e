"""What chatflow needs in a virtual host, checked as a whole before any of it is declared.

    exchange chatflow.ingest (direct)  --p-->  queue chatflow.ingest.<p>, quorum, single active consumer
    exchange chatflow.dead   (fanout)  ----->  queue chatflow.dead, quorum: rejected, or delivered too often
    exchange chatflow.live   (topic)   ----->  one exclusive queue for each subscriber
    queue    chatflow.partitions               holds nothing; its length limit is the number of partitions

The last one is the record that every role compares itself with. A queue's arguments cannot change and are compared by
the server, so of two roles that start with different numbers on an empty broker exactly one succeeds, and a role that
died half-way through leaves a record under which the next one completes the rest.
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
"""Looking at dead envelopes counts as delivering them, and a quorum queue of 4.x drops what was delivered 20 times."""

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
        """Raises ChannelNotFoundEntity when it does not."""
        await channel.declare_queue(self.name, passive=True)

    async def declare(self, channel: AbstractChannel) -> None:
        """Create it, or compare it with what is there."""
        await channel.declare_queue(self.name, durable=True, arguments=self.arguments)

    async def bind(self, channel: AbstractChannel) -> None:
        """Route to it."""
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
        """Raises ChannelNotFoundEntity when it does not."""
        await channel.declare_exchange(self.name, passive=True)

    async def declare(self, channel: AbstractChannel) -> None:
        """Create it, or compare it with what is there."""
        await channel.declare_exchange(self.name, self.kind, durable=True)


Part = DurableQueue | DurableExchange


def ingest_queue(partition: int) -> str:
    """The queue of one partition."""
    return f"{INGEST}.{partition}"


@attrs.frozen
class Topology:
    """The parts for these settings.

    Attributes:
        queue_limit_bytes: of the bodies that wait in one partition, those out for delivery not counted.
        delivery_limit: how often an envelope is given out before it goes to the dead; also counted when a consumer
            dies, so it must be far above the number of crashes that an envelope may live through.
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

        The dead have no limit of their own, since at it they would be dropped. Not ``x-dead-letter-strategy``: with
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
        """Check everything that is there, then declare what is missing; changes nothing that exists.

        Raises:
            BrokerMisconfigured: something differs, and nothing was declared.
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
                except _DIFFERS as exc:  # somebody else was faster, with other settings
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
    """Brings the topology back while the program runs, when an operator or an accident has deleted a part of it."""

    topology: Topology
    _restored_at: float = attrs.field(default=float("-inf"), init=False)

    async def __call__(self, connection: AbstractConnection) -> None:
        """Declare what is missing, at most once a second however many ask.

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
    """Which of these are there; each missing one costs a channel, since that is how AMQP says no."""
    found: list[Part] = []
    remaining = list(reversed(parts))
    while remaining:
        try:
            async with connection.channel() as channel:
                while remaining:
                    await remaining[-1].exists(channel)
                    found.append(remaining.pop())
        except ChannelNotFoundEntity as exc:
            if was_cancelled():  # the driver raises this in place of a cancellation that comes at the same time
                raise asyncio.CancelledError from exc
            if "no queue" not in str(exc) and "no exchange" not in str(exc):
                raise  # there, but on a node that is down
            remaining.pop()
    return found
