"""Use case: give a dead letter another try, with its original content and id, so that trying twice changes nothing.

Here the store is written directly: for a process whose broker nobody else can reach. See `republishing` for the others.
"""

import enum
import json
from typing import Any

import attrs

from chatflow.domain.messages.errors import InvalidInput
from chatflow.ports.broker import DeadEnvelope
from chatflow.ports.errors import RowRejected
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter, DeadLetters, MessageStore

BROKER_PREFIX = "b-"
"""Marks the names of what lies in the broker; names of what lies in the database are numbers."""


class Unreadable(InvalidInput):
    """The original of a dead letter is not a message."""


class Outcome(enum.StrEnum):
    """What became of one try; ``PUBLISHED`` may still be refused, and then it is a dead letter again."""

    STORED = "stored"
    PUBLISHED = "published"
    REFUSED = "refused"


@attrs.frozen
class Replayed:
    """One try.

    Attributes:
        name: of the dead letter, see `name_of`.
        message_ids: of the messages in it, as far as they can be read.
        seq: of the message, when it was stored.
        reason: why it was refused.
    """

    name: str
    message_ids: tuple[str, ...]
    outcome: Outcome
    seq: int | None = None
    reason: str = ""


def name_of(letter: DeadLetter | DeadEnvelope) -> str:
    """How an operator names it."""
    return str(letter.id) if isinstance(letter, DeadLetter) else BROKER_PREFIX + letter.id


async def replay(letter: DeadLetter, store: MessageStore, box: DeadLetters) -> Replayed:
    """Store the original and resolve the letter, or count the failed try.

    Raises:
        StoreUnavailable: nothing is known; try again.
    """
    try:
        appended = await store.append_batch([message_from_json(letter.message_json)])
    except (RowRejected, Unreadable) as exc:
        await box.mark_retried(letter.id, resolved=False)
        return refused(letter, str(exc))
    await box.mark_retried(letter.id, resolved=True)
    return Replayed(name_of(letter), (letter.message_id,), Outcome.STORED, appended.stored[0].seq)


def refused(letter: DeadLetter, reason: str) -> Replayed:
    """A try that failed for a reason that no other try cures."""
    return Replayed(name_of(letter), (letter.message_id,), Outcome.REFUSED, reason=reason)


def message_to_json(message: Message) -> str:
    """The original as JSON text, in ASCII so that it can be kept whatever is wrong with it."""
    return json.dumps(attrs.asdict(message), ensure_ascii=True, separators=(",", ":"), default=repr)


def message_from_json(text: str) -> Message:
    """The message that `message_to_json` wrote.

    Raises:
        Unreadable: it is not one.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        return Message(**fields)
    except (TypeError, ValueError) as exc:
        raise Unreadable(f"the original cannot be read: {exc}") from exc
