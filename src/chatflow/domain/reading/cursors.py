"""Opaque places in a listing: base64url of a version, a kind, the position and a checksum.

A cursor names the last row of a page; the next page starts strictly after it, so rows inserted meanwhile are never
shown twice and none is skipped. The checksum covers the room or user, so a cursor works only where it came from.
It guards against mix-ups, not forgery: a cursor gives no access that its path does not.
"""

import base64
import binascii
import struct
import zlib

from chatflow.ports.store import ActivityCursor, UserCursor

_VERSION = 1
_ROOM = struct.Struct(">BcQ")
_USER = struct.Struct(">BcQQ")
_ACTIVITY = struct.Struct(">BcQ")
_CHECK = struct.Struct(">I")
_LONGEST = 256


class InvalidCursor(ValueError):
    """Not a cursor, one of another kind or listing, or of a version that this program does not know."""


def encode_room_cursor(room_id: str, before_seq: int) -> str:
    """The place just below ``before_seq`` in this room."""
    return _seal(_ROOM.pack(_VERSION, b"r", before_seq), room_id)


def decode_room_cursor(text: str, room_id: str) -> int:
    """The ``before_seq`` of a cursor of this room.

    Raises:
        InvalidCursor: it is anything else.
    """
    payload = _open(text, room_id, b"r")
    if len(payload) != _ROOM.size:
        raise InvalidCursor("is damaged")
    seq: int = _ROOM.unpack(payload)[2]
    return seq


def encode_user_cursor(user_id: int, place: UserCursor) -> str:
    """The place just below this row in the user's history."""
    payload = _USER.pack(_VERSION, b"u", place.accepted_at_us, place.seq) + place.room_id.encode()
    return _seal(payload, str(user_id))


def decode_user_cursor(text: str, user_id: int) -> UserCursor:
    """The place of a cursor of this user.

    Raises:
        InvalidCursor: it is anything else.
    """
    payload = _open(text, str(user_id), b"u")
    if len(payload) <= _USER.size:
        raise InvalidCursor("is damaged")
    _, _, accepted_at_us, seq = _USER.unpack_from(payload)
    return UserCursor(accepted_at_us, _room_id(payload[_USER.size :]), seq)


def encode_activity_cursor(user_id: int, place: ActivityCursor) -> str:
    """The place just after this room among the user's."""
    return _seal(_ACTIVITY.pack(_VERSION, b"a", place.last_activity_us) + place.room_id.encode(), str(user_id))


def decode_activity_cursor(text: str, user_id: int) -> ActivityCursor:
    """The place of a cursor of this user's rooms.

    Raises:
        InvalidCursor: it is anything else.
    """
    payload = _open(text, str(user_id), b"a")
    if len(payload) <= _ACTIVITY.size:
        raise InvalidCursor("is damaged")
    _, _, last_activity_us = _ACTIVITY.unpack_from(payload)
    return ActivityCursor(last_activity_us, _room_id(payload[_ACTIVITY.size :]))


def _room_id(payload: bytes) -> str:
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError as exc:
        raise InvalidCursor("is damaged") from exc


def _seal(payload: bytes, subject: str) -> str:
    sealed = payload + _CHECK.pack(_checksum(payload, subject))
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _open(text: str, subject: str, kind: bytes) -> bytes:
    sealed = _unbase64(text)
    payload, check = sealed[: -_CHECK.size], sealed[-_CHECK.size :]
    if len(payload) < 2 or payload[0] != _VERSION:
        raise InvalidCursor("is not a cursor of this service")
    if payload[1:2] != kind or _CHECK.pack(_checksum(payload, subject)) != check:
        raise InvalidCursor("belongs to another listing")
    return payload


def _unbase64(text: str) -> bytes:
    if len(text) > _LONGEST:
        raise InvalidCursor("is not a cursor of this service")
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise InvalidCursor("is not a cursor of this service") from exc


def _checksum(payload: bytes, subject: str) -> int:
    return zlib.crc32(subject.encode(), zlib.crc32(payload))
