"""The rules of a message's values. A refusal names the field as the caller's protocol does; the client reads it."""

import re

import attrs

from chatflow.domain.messages.errors import InvalidMessage
from chatflow.domain.messages.rooms import ROOM_MAX_CHARS
from chatflow.domain.messages.timestamps import parse_timestamp
from chatflow.ports.clock import NewId, WallClock

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
MESSAGE_TYPES = frozenset({"TEXT", "JOIN", "LEAVE"})


@attrs.frozen
class MessageLimits:
    """What a message may be. Characters are code points."""

    user_id_max: int = 2**53 - 1
    username_min: int = 3
    username_max: int = 20
    text_max: int = 500
    room_max: int = ROOM_MAX_CHARS


@attrs.frozen
class Stamps:
    """What a gateway adds to each message that it accepts."""

    server_id: str
    now_us: WallClock
    new_id: NewId


def valid_user_id(value: object, limits: MessageLimits, name: str) -> int:
    """An integer in range, from a JSON integer or a decimal string."""
    if value is None or value == "":
        raise InvalidMessage(f"{name} is required")
    if type(value) is str and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is not int:
        raise InvalidMessage(f"{name} must be a valid number")
    if not 1 <= value <= limits.user_id_max:
        raise InvalidMessage(f"{name} must be between 1 and {limits.user_id_max}")
    return value


def valid_username(value: object, limits: MessageLimits, name: str) -> str:
    """Letters and digits of ASCII, within the length limits."""
    if value is None or value == "":
        raise InvalidMessage(f"{name} is required")
    if type(value) is not str or not (value.isascii() and value.isalnum()):
        raise InvalidMessage(f"{name} must be alphanumeric (only letters and numbers)")
    if not limits.username_min <= len(value) <= limits.username_max:
        raise InvalidMessage(f"{name} must be between {limits.username_min} and {limits.username_max} characters")
    return value


def valid_text(value: object, limits: MessageLimits, name: str) -> str:
    """Any text within the limit, blanks included."""
    if value is None or value == "":
        raise InvalidMessage(f"{name} is required")
    if type(value) is not str or len(value) > limits.text_max:
        raise InvalidMessage(f"{name} must be 1-{limits.text_max} characters")
    return value


def valid_message_id(value: object, name: str) -> str | None:
    """A client's own UUID (RFC 9562, any version) in canonical lower case; ``None`` when it gave none."""
    if value is None:
        return None
    if type(value) is str:
        lowered = value.lower()
        if _UUID.fullmatch(lowered):
            return lowered
    raise InvalidMessage(f"{name} must be a UUID")


def valid_message_type(value: object, name: str) -> str:
    """One of the types that there are."""
    if value is None or value == "":
        raise InvalidMessage(f"{name} is required")
    if type(value) is not str or value not in MESSAGE_TYPES:
        raise InvalidMessage(f"{name} must be TEXT, JOIN, or LEAVE")
    return value


def valid_timestamp(value: object, name: str) -> int:
    """Microseconds since the epoch of an ISO 8601 date and time."""
    if value is None or value == "":
        raise InvalidMessage(f"{name} is required")
    if type(value) is not str:
        raise InvalidMessage(f"{name} must be a valid ISO 8601 format")
    try:
        return parse_timestamp(value)
    except (ValueError, OverflowError) as exc:
        raise InvalidMessage(f"{name} must be a valid ISO 8601 format") from exc
