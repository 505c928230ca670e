"""Answers to JSON, once: what is cached is sent as it is, behind the fields that differ each time.

An encoded answer is the digest of its JSON, 8 bytes, and the JSON: a hit computes no digest.
"""

import hashlib
from functools import singledispatch
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from chatflow.adapters.aiohttp.schemas import (
    ActiveUserCount,
    Hour,
    Hours,
    Minute,
    Minutes,
    RoomMessage,
    RoomMessages,
    RoomOfUser,
    RoomsOfUser,
    TopRoom,
    TopRoomList,
    TopUser,
    TopUserList,
    TotalMessages,
    UserMessage,
    UserMessages,
)
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.reading.answers import (
    HEAD_BYTES,
    ActiveUsers,
    Answer,
    Answered,
    EncodedRows,
    Patterns,
    RoomPage,
    Throughput,
    Tier,
    TopRooms,
    TopUsers,
    Total,
    UserPage,
    UserRooms,
)
from chatflow.ports.messages import StoredMessage

_encoder = msgspec.json.Encoder()


DIGEST_BYTES = 8
_BODY = HEAD_BYTES + DIGEST_BYTES


def encode(answer: Answer) -> bytes:
    """The digest and the JSON object of an answer, without the fields that frame it."""
    body = _page_of_rows(answer) if isinstance(answer, EncodedRows) else _encoder.encode(_wire(answer))
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def encode_row(stored: StoredMessage) -> bytes:
    """One message of a room's page."""
    return _encoder.encode(_room_message(stored))


def body_of(answered: Answered) -> memoryview:
    """The JSON object without the fields that frame it."""
    return memoryview(answered.value)[_BODY:]


def digest_of(answered: Answered) -> str:
    """Equal for equal bodies; the fields that frame the body are not covered."""
    return answered.value[HEAD_BYTES:_BODY].hex()


def framed(query: str, answered: Answered) -> tuple[bytes, memoryview]:
    """The whole JSON object: the fields that differ each time, then the body as it is."""
    cached = "true" if answered.source is not Tier.MISS else "false"
    head = f'{{"query":"{query}","queryTimeMs":{int(answered.took_s * 1000)},"cached":{cached},'
    return head.encode(), memoryview(answered.value)[_BODY + 1 :]


def _page_of_rows(page: EncodedRows) -> bytes:
    """A `RoomMessages` of rows that are encoded already."""
    start = b'{"roomId":%b,"limit":%d,"resultCount":%d,"messages":[' % (
        _encoder.encode(page.room_id),
        page.limit,
        len(page.rows),
    )
    end = b"]}" if page.next_cursor is None else b'],"nextCursor":%b}' % _encoder.encode(page.next_cursor)
    return b"".join((start, b",".join(page.rows), end))


@singledispatch
def _wire(answer: Any) -> Struct:
    raise TypeError(type(answer))


@_wire.register
def _(page: RoomPage) -> Struct:
    messages = [_room_message(stored) for stored in page.messages]
    return RoomMessages(page.room_id, page.limit, len(messages), messages, page.next_cursor or UNSET)


@_wire.register
def _(page: UserPage) -> Struct:
    messages = [_user_message(stored) for stored in page.messages]
    return UserMessages(page.user_id, page.limit, len(messages), messages, page.next_cursor or UNSET)


@_wire.register
def _(active: ActiveUsers) -> Struct:
    return ActiveUserCount(_time(active.window.start_us), _time(active.window.end_us), active.count)


@_wire.register
def _(answer: UserRooms) -> Struct:
    rooms = [RoomOfUser(r.room_id, format_timestamp(r.last_activity_us), r.message_count) for r in answer.rooms]
    return RoomsOfUser(answer.user_id, answer.limit, len(rooms), rooms, answer.next_cursor or UNSET)


@_wire.register
def _(answer: Throughput) -> Struct:
    return Minutes(answer.limit, [Minute(format_timestamp(m.minute_us), m.message_count) for m in answer.minutes])


@_wire.register
def _(answer: TopUsers) -> Struct:
    return TopUserList(answer.n, [TopUser(u.user_id, u.username, u.message_count) for u in answer.users])


@_wire.register
def _(answer: TopRooms) -> Struct:
    return TopRoomList(answer.n, [TopRoom(r.room_id, r.message_count, r.unique_users) for r in answer.rooms])


@_wire.register
def _(answer: Patterns) -> Struct:
    return Hours([Hour(h.hour_of_day, h.message_count, h.unique_users) for h in answer.hours])


@_wire.register
def _(answer: Total) -> Struct:
    return TotalMessages(answer.count)


def _room_message(stored: StoredMessage) -> RoomMessage:
    m = stored.message
    return RoomMessage(
        m.message_id,
        stored.seq,
        m.user_id,
        m.username,
        m.text,
        m.message_type,
        format_timestamp(m.sent_at_us),
        format_timestamp(m.accepted_at_us),
    )


def _user_message(stored: StoredMessage) -> UserMessage:
    m = stored.message
    return UserMessage(
        m.message_id,
        m.room_id,
        stored.seq,
        m.user_id,
        m.username,
        m.text,
        m.message_type,
        format_timestamp(m.sent_at_us),
        format_timestamp(m.accepted_at_us),
    )


def _time(micros: int | None) -> str | None:
    return None if micros is None else format_timestamp(micros)
