"""Use cases: give dead letters another try, with their original content and ids, so that trying twice changes nothing.

With a broker that others can reach, a `Republisher` sends them the whole way again. The order is fixed: publish, wait
for the confirm, and only then forget the dead letter. A crash in between leaves it where it is, and publishing it once
more is harmless. A message that is refused again becomes a dead letter again: its row is reopened, even when that
happens before the replay has resolved it.

With an embedded broker whose process does not run, `replay_into_store` writes the store directly.
"""

import enum
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import attrs

from chatflow.domain.messages.conflicts import conflicts
from chatflow.domain.messages.errors import InvalidInput
from chatflow.domain.messages.rooms import partition_of
from chatflow.ports.broker import DeadEnvelope, DeadLetterQueue, Envelope, EnvelopePublisher, envelope_of
from chatflow.ports.errors import RowRejected
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import DeadLetter, DeadLetters, MessageReader, MessageStore


class UnreadableOriginal(InvalidInput):
    """The original of a dead letter is not a message."""


class Outcome(enum.StrEnum):
    """Result of one replay; a ``PUBLISHED`` message may still be refused, and is a dead letter again then."""

    STORED = "stored"
    PUBLISHED = "published"
    REFUSED = "refused"


@attrs.frozen
class Replayed:
    """One replay.

    Attributes:
        dead: the dead letter or dead envelope that was tried.
        seq: of the message, when it was stored.
        reason: why it was refused.
    """

    dead: DeadLetter | DeadEnvelope
    outcome: Outcome
    seq: int | None = None
    reason: str = ""

    @property
    def message_ids(self) -> tuple[str, ...]:
        """Ids of the messages in it, as far as they can be read."""
        if isinstance(self.dead, DeadLetter):
            return (self.dead.message_id,)
        return tuple([message.message_id for message in self.dead.messages])


async def replay_into_store(dead: DeadLetter, store: MessageStore, dead_letters: DeadLetters) -> Replayed:
    """Store the original and resolve the row, or count the failed try. One that conflicts stays: it is not stored.

    Raises:
        StoreUnavailable: the outcome is unknown; try again.
    """
    try:
        original = message_from_json(dead.message_json)
        (stored,) = (await store.append_batch([original])).stored
    except (RowRejected, UnreadableOriginal) as exc:
        await dead_letters.mark_retried(dead.id, resolved=False)
        return Replayed(dead, Outcome.REFUSED, reason=str(exc))
    if conflicts(original, stored.message):
        await dead_letters.mark_retried(dead.id, resolved=False)
        return Replayed(dead, Outcome.REFUSED, reason=_taken_by(stored))
    await dead_letters.mark_retried(dead.id, resolved=True)
    return Replayed(dead, Outcome.STORED, stored.seq)


def _taken_by(stored: StoredMessage) -> str:
    return f"its sender's id stands for message {stored.seq} of room {stored.message.room_id}"


@attrs.frozen
class Republisher:
    """Publishes originals again. Both methods raise ``BrokerError`` without a confirm; nothing is forgotten then."""

    broker: EnvelopePublisher
    dead_letters: DeadLetters
    reader: MessageReader
    partitions: int

    async def replay(self, dead: DeadLetter) -> Replayed:
        """Publish a row's original and resolve the row, or count the failed try.

        One whose id stands for another message of its sender's would be dropped as a duplicate, so it is refused.

        Raises:
            StoreUnavailable: it may be published, and the row stays open.
        """
        await self.dead_letters.mark_retried(dead.id, resolved=dead.resolved)
        tried = await self.dead_letters.get_dead(dead.id)
        if tried is None:
            return Replayed(dead, Outcome.REFUSED, reason="somebody has just removed it")
        try:
            original = message_from_json(dead.message_json)
            if (first := await self._conflicting(original)) is not None:
                return Replayed(dead, Outcome.REFUSED, reason=_taken_by(first))
            await self._publish([original])
        except UnreadableOriginal as exc:
            return Replayed(dead, Outcome.REFUSED, reason=str(exc))
        if not await self.dead_letters.resolve(tried):
            now = await self.dead_letters.get_dead(dead.id)
            if now is not None and now.retry_count == tried.retry_count:
                return Replayed(dead, Outcome.REFUSED, reason=now.error_reason)
        return Replayed(dead, Outcome.PUBLISHED)

    async def replay_envelope(self, dead: DeadEnvelope, queue: DeadLetterQueue) -> Replayed:
        """Publish the messages of an envelope and remove it from the queue; one that cannot be read stays."""
        if dead.unreadable:
            return Replayed(dead, Outcome.REFUSED, reason=f"it cannot be read: {dead.unreadable}")
        try:
            await self._publish(dead.messages)
        except UnreadableOriginal as exc:
            return Replayed(dead, Outcome.REFUSED, reason=str(exc))
        await queue.remove(dead)
        return Replayed(dead, Outcome.PUBLISHED)

    async def _conflicting(self, original: Message) -> StoredMessage | None:
        check_sendable(original)
        for stored in (await self.reader.locate([original.key])).values():
            if conflicts(original, stored.message):
                return stored
        return None

    async def _publish(self, messages: Iterable[Message]) -> None:
        for envelope in self._envelopes(messages):
            await self.broker.publish(envelope)

    def _envelopes(self, messages: Iterable[Message]) -> list[Envelope]:
        """One for each partition; all are built before the first is published."""
        parts: dict[int, list[Message]] = {}
        for message in messages:
            check_sendable(message)
            parts.setdefault(partition_of(message.room_id, self.partitions), []).append(message)
        return [envelope_of(partition, part) for partition, part in parts.items()]


async def oldest(queue: DeadLetterQueue, *, limit: int | None = None) -> AsyncIterator[DeadEnvelope]:
    """Take what is in the queue now, at most ``limit``.

    Envelopes that die meanwhile are left out, so that a replay whose messages are refused again comes to an end.
    """
    waiting = await queue.waiting()
    for _ in range(waiting if limit is None else min(limit, waiting)):
        envelope = await queue.take()
        if envelope is None:
            return
        yield envelope


def message_to_json(message: Message) -> str:
    """The original as JSON text; ASCII, so that it can be kept whatever is wrong with it."""
    return json.dumps(attrs.asdict(message), ensure_ascii=True, separators=(",", ":"), default=repr)


def message_from_json(text: str) -> Message:
    """The message that `message_to_json` wrote.

    Raises:
        UnreadableOriginal: it is not one.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        return Message(**fields)
    except (TypeError, ValueError) as exc:
        raise UnreadableOriginal(f"the original cannot be read: {exc}") from exc


def check_sendable(message: Message) -> None:
    """Pass only a message that a processor can read.

    Raises:
        UnreadableOriginal: a value has another type, or a text cannot be encoded.
    """
    for field in attrs.fields(Message):
        value = getattr(message, field.name)
        if type(value) is not field.type:
            raise UnreadableOriginal(f"the original cannot be sent: {field.name} is {value!r}")
        if isinstance(value, str) and not _is_encodable(value):
            raise UnreadableOriginal(f"the original cannot be sent: {field.name} holds half a character")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
