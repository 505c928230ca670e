"""The durable way from gateway to processor, and the transient way back.

Promises of every adapter:

* ``publish`` returns only once the envelope survives any single fault (memory: once its consumer has acked it).
* Envelopes of one partition are delivered in publish order to one active consumer at a time. What a consumer
  received and did not ack goes to the next one, in the original order: delivery is at least once.
* At the byte limit an envelope is refused, never dropped.
* The live channel may lose envelopes; a subscriber learns of the losses it can see, and readers repair from the store.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from chatflow.ports.lifecycle import Lifecycle
from chatflow.ports.messages import Message, StoredMessage

QUEUE_LIMIT_BYTES = 64 * 2**20
CONFIRM_TIMEOUT_S = 5.0
"""The defaults, of the settings too."""


@attrs.frozen
class Envelope:
    """Several messages of one partition, published and confirmed as one.

    Attributes:
        partition: 0 .. P-1.
        messages: in the order they must be stored; never empty.
        size_bytes: estimate of the payload, for limits.
    """

    partition: int
    messages: tuple[Message, ...]
    size_bytes: int


@attrs.frozen(eq=False)
class Delivery:
    """An envelope handed to a consumer; compared by identity.

    Attributes:
        tag: grows with each delivery of one consumer.
        redelivered: it may have been stored before.
    """

    envelope: Envelope
    tag: int
    redelivered: bool = False


@attrs.frozen
class LiveEnvelope:
    """Messages of one partition that were just committed (or committed before and redelivered)."""

    partition: int
    messages: tuple[StoredMessage, ...]


class Consumer(Protocol):
    """The exclusive reader of one partition; at most ``prefetch`` deliveries are unacked."""

    async def receive(self) -> Delivery:
        """Wait for the next delivery.

        Raises:
            BrokerUnavailable: the stream broke; open a new consumer, which gets everything unacked again.
        """

    def waiting(self) -> int:
        """Messages that wait in this partition's queue, undelivered; 0 where that is not cheap to know."""

    async def ack(self, up_to: Delivery) -> None:
        """Acknowledge this delivery and every earlier one of this consumer.

        Raises:
            BrokerUnavailable: the ack may be lost; the deliveries come again.
        """

    async def close(self) -> None:
        """Give the partition up; what is unacked goes to the next consumer."""


class EnvelopePublisher(Protocol):
    """The half of a `Broker` that takes envelopes."""

    async def publish(self, envelope: Envelope) -> None:
        """Publish and wait for the confirm.

        Raises:
            BrokerFull: refused at the byte limit; it is not in the queue.
            BrokerUnavailable: no confirm; it may be in the queue. Publish the same ids again.
        """


class Broker(Lifecycle, EnvelopePublisher, Protocol):
    """Durable, partitioned, at-least-once. `ping` knows without asking."""

    async def consume(self, partition: int, *, prefetch: int) -> Consumer:
        """Open a consumer; when another is active it waits its turn in ``receive``.

        Raises:
            BrokerUnavailable: try again later.
        """

    @property
    def open_channels(self) -> int:
        """Channels (in memory: queues) that can take a publish right now."""


@attrs.frozen(eq=False)
class DeadEnvelope:
    """A dead letter of the broker: an envelope that no consumer could read, or that was delivered too often.

    Attributes:
        id: derived from body and route, so equal envelopes have the same one.
        body: as it was published.
        messages: what is in it; empty when unreadable.
        unreadable: why; ``""`` when it can be read.
        reason: the broker's, such as ``rejected`` or ``delivery_limit``; ``""`` when it gives none.
        queue: where it died.
        count: how often it died there.
        died_at_s: seconds since the epoch; ``None`` when the broker does not say.
        receipt: with which the adapter removes it.
    """

    id: str
    body: bytes
    messages: tuple[Message, ...]
    unreadable: str
    reason: str
    queue: str
    count: int
    died_at_s: float | None
    receipt: object = attrs.field(repr=False)


class DeadLetterQueue(Protocol):
    """A reader of the broker's dead letters. All methods but `close` raise ``BrokerUnavailable``."""

    async def waiting(self) -> int:
        """How many are there that no reader has taken."""

    async def take(self) -> DeadEnvelope | None:
        """The oldest one that is not taken; ``None`` when there is none."""

    async def remove(self, envelope: DeadEnvelope) -> None:
        """Remove it for good; after a failure it comes back, and may be removed all the same."""

    async def close(self) -> None:
        """Return what was taken and not removed, in its order; idempotent. It may take a moment to be seen again."""


class LiveSubscription(Protocol):
    """One gateway's bounded view of everything committed."""

    async def receive(self) -> LiveEnvelope | None:
        """Wait for the next envelope; ``None`` means that some were lost and rooms must be checked.

        Raises:
            BrokerUnavailable: the subscription broke; subscribe again and check rooms.
        """

    async def close(self) -> None:
        """Stop receiving."""


class LiveChannel(Protocol):
    """Transient fan-out of committed messages to every gateway."""

    async def publish_live(self, envelope: LiveEnvelope) -> None:
        """Send to every subscriber, without confirm.

        Raises:
            BrokerUnavailable: nobody may have got it.
        """

    async def subscribe(self, *, limit: int) -> LiveSubscription:
        """Open a subscription that holds at most ``limit`` envelopes.

        Raises:
            BrokerUnavailable: try again later.
        """


def envelope_of(partition: int, messages: Sequence[Message]) -> Envelope:
    """An envelope with its size estimated."""
    return Envelope(partition, tuple(messages), sum(size_of(message) for message in messages))


ROW_OVERHEAD_BYTES = 220
"""Bytes that a message costs on the wire and in queues besides its text: field names, id, times, names."""


def size_of(message: Message) -> int:
    """Estimated bytes of one message in a queue: the text at up to 4 bytes a code point, plus the overhead."""
    text = message.text
    return ROW_OVERHEAD_BYTES + (len(text) if text.isascii() else 4 * len(text))
