"""Use case: send dead letters the whole way again, with their original ids, so that sending twice changes nothing.

The order is fixed: publish, wait for the confirm, and only then forget the letter. A crash in between leaves it where
it is, and sending it once more is harmless. What is refused once more comes back as a dead letter: a row of the
database is opened again, also when it comes back before it was resolved.
"""

from collections.abc import AsyncIterator, Iterable

import attrs

from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.persistence.replaying import Outcome, Replayed, Unreadable, message_from_json, name_of, refused
from chatflow.ports.broker import Broker, DeadEnvelope, DeadLetterQueue, Envelope, envelope_of
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter, DeadLetters


@attrs.frozen
class Republisher:
    """Both methods raise ``BrokerError`` when there was no confirm; the letter then stays as it is."""

    broker: Broker
    box: DeadLetters
    partitions: int

    async def replay(self, letter: DeadLetter) -> Replayed:
        """Publish a row's original and resolve the row, or count the failed try.

        Raises:
            StoreUnavailable: it may be published, and the row stays open.
        """
        await self.box.mark_retried(letter.id, resolved=letter.resolved)
        tried = await self.box.get_dead(letter.id)
        if tried is None:
            return refused(letter, "somebody has just removed it")
        try:
            await self._publish([message_from_json(letter.message_json)])
        except Unreadable as exc:
            return refused(letter, str(exc))
        if not await self.box.resolve(tried):
            now = await self.box.get_dead(letter.id)
            if now is not None and now.retry_count == tried.retry_count:
                return refused(letter, now.error_reason)
        return Replayed(name_of(letter), (letter.message_id,), Outcome.PUBLISHED)

    async def replay_envelope(self, letter: DeadEnvelope, dead: DeadLetterQueue) -> Replayed:
        """Publish what is in an envelope and settle it; one that cannot be read stays."""
        ids = tuple([message.message_id for message in letter.messages])
        if letter.unreadable:
            return Replayed(name_of(letter), ids, Outcome.REFUSED, reason=f"it cannot be read: {letter.unreadable}")
        try:
            await self._publish(letter.messages)
        except Unreadable as exc:
            return Replayed(name_of(letter), ids, Outcome.REFUSED, reason=str(exc))
        await dead.remove(letter)
        return Replayed(name_of(letter), ids, Outcome.PUBLISHED)

    async def _publish(self, messages: Iterable[Message]) -> None:
        for envelope in self._envelopes(messages):
            await self.broker.publish(envelope)

    def _envelopes(self, messages: Iterable[Message]) -> list[Envelope]:
        """One for each partition, all made before the first is published."""
        parts: dict[int, list[Message]] = {}
        for message in messages:
            check_sendable(message)
            parts.setdefault(partition_of(message.room_id, self.partitions), []).append(message)
        return [envelope_of(partition, part) for partition, part in parts.items()]


def check_sendable(message: Message) -> None:
    """Pass only what a processor can read.

    Raises:
        Unreadable: a value of another type, or text that no encoding has.
    """
    for field in attrs.fields(Message):
        value = getattr(message, field.name)
        if type(value) is not field.type:
            raise Unreadable(f"the original cannot be sent: {field.name} is {value!r}")
        if isinstance(value, str) and not _is_encodable(value):
            raise Unreadable(f"the original cannot be sent: {field.name} holds half a character")


async def oldest(dead: DeadLetterQueue, *, limit: int | None = None) -> AsyncIterator[DeadEnvelope]:
    """What is there now, at most ``limit``; not what dies meanwhile, so that a replay that fails comes to an end."""
    waiting = await dead.waiting()
    for _ in range(waiting if limit is None else min(limit, waiting)):
        letter = await dead.take()
        if letter is None:
            return
        yield letter


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
