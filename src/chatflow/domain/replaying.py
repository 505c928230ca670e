"""Use case: give a dead letter another try, with its original content and id, so that trying twice changes nothing."""

import json
from typing import Any

import attrs

from chatflow.domain.invalid import InvalidInput
from chatflow.ports.errors import RowRejected
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter, DeadLetterBox, MessageStore


class Unreadable(InvalidInput):
    """The original of a dead letter is not a message."""


@attrs.frozen
class Replayed:
    """What became of one try. ``seq`` is ``None`` when it was refused again, for ``reason``."""

    letter: DeadLetter
    seq: int | None
    reason: str = ""


async def replay(letter: DeadLetter, store: MessageStore, box: DeadLetterBox) -> Replayed:
    """Store the original and resolve the letter, or count the failed try.

    Raises:
        StoreUnavailable: nothing is known; try again.
    """
    try:
        appended = await store.append_batch([message_from_json(letter.message_json)])
    except (RowRejected, Unreadable) as exc:
        await box.mark_retried(letter.id, resolved=False)
        return Replayed(letter, None, str(exc))
    await box.mark_retried(letter.id, resolved=True)
    return Replayed(letter, appended.stored[0].seq)


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
