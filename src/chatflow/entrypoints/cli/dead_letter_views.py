"""Dead letters as text and JSON: rows of a list, one in full, and the result of a replay."""

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
class DeadLetterRow:
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
        """With the field names of the JSON interfaces."""
        return {
            "id": self.id,
            "source": self.source,
            "messageIds": self.message_ids,
            "createdAt": self.created_at,
            "retryCount": self.retry_count,
            "resolved": self.resolved,
            "reason": self.reason,
        }


def outcome_text(result: Replayed) -> str:
    """The outcome in a few words."""
    if result.outcome is Outcome.STORED:
        return f"stored with seq {result.seq}"
    return f"refused: {result.reason}" if result.outcome is Outcome.REFUSED else str(result.outcome)


def replayed_as_json(result: Replayed) -> dict[str, Any]:
    """With the field names of the JSON interfaces."""
    return {
        "id": name_of(result.dead),
        "messageIds": result.message_ids,
        "outcome": result.outcome,
        "seq": result.seq,
        "reason": result.reason or None,
    }


def row_of_dead_letter(dead: DeadLetter) -> DeadLetterRow:
    """A dead letter of the database, for a list."""
    created = format_timestamp(dead.created_at_us)
    ids = (dead.message_id,)
    return DeadLetterRow(name_of(dead), "database", ids, created, dead.retry_count, dead.resolved, dead.error_reason)


def row_of_envelope(dead: DeadEnvelope) -> DeadLetterRow:
    """A dead letter of the broker, for a list."""
    ids = tuple([message.message_id for message in dead.messages])
    reason = f"{dead.reason or 'dead-lettered'} by {dead.queue or 'an unknown queue'}"
    if dead.unreadable:
        reason += f": {dead.unreadable}"
    return DeadLetterRow(name_of(dead), "broker", ids, _died_at(dead), dead.count, resolved=False, reason=reason)


def _died_at(dead: DeadEnvelope) -> str | None:
    return None if dead.died_at_s is None else format_timestamp(int(dead.died_at_s * 1_000_000))


def shown_dead_letter(dead: DeadLetter) -> dict[str, Any]:
    """A dead letter of the database, with its original."""
    retried = dead.last_retry_us
    return {
        "id": name_of(dead),
        "source": "database",
        "messageId": dead.message_id,
        "reason": dead.error_reason,
        "createdAt": format_timestamp(dead.created_at_us),
        "retryCount": dead.retry_count,
        "lastRetry": None if retried is None else format_timestamp(retried),
        "resolved": dead.resolved,
        "original": _original(dead.message_json.encode("utf-8", "surrogatepass")),
    }


def shown_envelope(dead: DeadEnvelope) -> dict[str, Any]:
    """A dead letter of the broker, with its messages."""
    return {
        "id": name_of(dead),
        "source": "broker",
        "messageIds": [message.message_id for message in dead.messages],
        "reason": dead.reason,
        "queue": dead.queue,
        "count": dead.count,
        "diedAt": _died_at(dead),
        "unreadable": dead.unreadable or None,
        "original": _original(dead.body),
    }


def _original(body: bytes) -> Any:
    """As JSON if it parses, else as text, else as Base64."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
