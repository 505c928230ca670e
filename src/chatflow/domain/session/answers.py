"""What ``/ws`` answers, as values that the shell encodes."""

import math
from collections.abc import Mapping

from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.session.errors import error_code, error_text
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message

Ack = tuple[object, Message, int | None]
"""A send's ref, its message, and the ``seq`` if the sender waited for the commit. A tuple, since there is one for
each message."""

Answer = Ack | Mapping[str, object]


def welcome(
    ref: object, session_id: str, user: tuple[int, str], heartbeat_s: float, expires_at: float = math.inf
) -> Answer:
    """The answer to a hello; a heartbeat of whole seconds is an integer, which some clients insist on."""
    heartbeat = int(heartbeat_s) if heartbeat_s == int(heartbeat_s) else heartbeat_s
    return {
        "op": "welcome",
        **_ref_of(ref),
        "session": session_id,
        "userId": user[0],
        "username": user[1],
        "heartbeat": heartbeat,
        **_expiry_of(expires_at),
    }


def refreshed(ref: object, expires_at: float) -> Answer:
    """The answer to a refresh."""
    return {"op": "refreshed", **_ref_of(ref), **_expiry_of(expires_at)}


def joined(ref: object, room_id: str, head: int, *, recovered: bool) -> Answer:
    """The answer to a join."""
    return {"op": "joined", **_ref_of(ref), "room": room_id, "head": head, "recovered": recovered}


def left(ref: object, room_id: str) -> Answer:
    """The answer to a leave."""
    return {"op": "left", **_ref_of(ref), "room": room_id}


def failed(ref: object, error: ChatflowError) -> Answer:
    """The answer to anything that cannot be done."""
    return {
        "op": "error",
        **_ref_of(ref),
        "code": error_code(error),
        "message": error_text(error),
        "retryable": error.retryable,
    }


def _expiry_of(expires_at: float) -> dict[str, object]:
    return {} if expires_at == math.inf else {"expiresAt": format_timestamp(int(expires_at * 1_000_000))}


def _ref_of(ref: object) -> dict[str, object]:
    return {} if ref is None else {"ref": ref}
