"""How an operator sees dead letters: as rows of a list, one in full, and what became of a replay."""

import base64
import json
from typing import Any, Literal

import attrs

from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.persistence.replay import Outcome, Replayed
from chatflow.ports.broker import DeadEnvelope
from chatflow.ports.store import DeadLetter

BROKER_PREFIX = "b-"
"""Marks the ids of dead letters that lie in the broker; ids of those in the database are numbers."""


def name_of(dead: DeadLetter | DeadEnvelope) -> str:
    """The id by which the commands name it."""
    return str(dead.id) if isinstance(dead, DeadLetter) else BROKER_PREFIX + dead.id


@attrs.frozen
class Row:
    """One dead letter in a list.

    Attributes:
        created_at: ISO 8601; ``None`` when the broker does not say.
        retry_count: replays of a row, deaths of an envelope.
    """

    id: str
    source: Literal["database", "broker"]
    message_ids: tuple[str, ...]
    created_at: str | None
    retry_count: int
    resolved: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """In the names of the wire."""
        return {
            "id": self.id,
            "source": self.source,
            "messageIds": self.message_ids,
            "createdAt": self.created_at,
            "retryCount": self.retry_count,
            "resolved": self.resolved,
            "reason": self.reason,
        }


def told(result: Replayed) -> str:
    """In a few words."""
    if result.outcome is Outcome.STORED:
        return f"stored with seq {result.seq}"
    return f"refused: {result.reason}" if result.outcome is Outcome.REFUSED else str(result.outcome)


def replayed_as_json(result: Replayed) -> dict[str, Any]:
    """In the names of the wire."""
    return {
        "id": name_of(result.dead),
        "messageIds": result.message_ids,
        "outcome": result.outcome,
        "seq": result.seq,
        "reason": result.reason or None,
    }


def row_of_letter(letter: DeadLetter) -> Row:
    """A row of the database in a list."""
    created = format_timestamp(letter.created_at_us)
    ids = (letter.message_id,)
    return Row(name_of(letter), "database", ids, created, letter.retry_count, letter.resolved, letter.error_reason)


def row_of_envelope(letter: DeadEnvelope) -> Row:
    """An envelope of the broker in a list."""
    ids = tuple([message.message_id for message in letter.messages])
    reason = f"{letter.reason or 'put aside'} by {letter.queue or 'somebody'}"
    if letter.unreadable:
        reason += f": {letter.unreadable}"
    return Row(name_of(letter), "broker", ids, _died_at(letter), letter.count, resolved=False, reason=reason)


def _died_at(letter: DeadEnvelope) -> str | None:
    return None if letter.died_at_s is None else format_timestamp(int(letter.died_at_s * 1_000_000))


def shown_letter(letter: DeadLetter) -> dict[str, Any]:
    """A row of the database with its original."""
    retried = letter.last_retry_us
    return {
        "id": name_of(letter),
        "source": "database",
        "messageId": letter.message_id,
        "reason": letter.error_reason,
        "createdAt": format_timestamp(letter.created_at_us),
        "retryCount": letter.retry_count,
        "lastRetry": None if retried is None else format_timestamp(retried),
        "resolved": letter.resolved,
        "original": _original(letter.message_json.encode("utf-8", "surrogatepass")),
    }


def shown_envelope(letter: DeadEnvelope) -> dict[str, Any]:
    """An envelope of the broker with what is in it."""
    return {
        "id": name_of(letter),
        "source": "broker",
        "messageIds": [message.message_id for message in letter.messages],
        "reason": letter.reason,
        "queue": letter.queue,
        "count": letter.count,
        "diedAt": _died_at(letter),
        "unreadable": letter.unreadable or None,
        "original": _original(letter.body),
    }


def _original(body: bytes) -> Any:
    """As JSON if it is any, else as text, else in Base64."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
