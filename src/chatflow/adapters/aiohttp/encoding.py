"""Answers to JSON, once: a cached body is handed out as it is, with what differs each time put in front of it."""

from collections.abc import Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from chatflow.adapters.aiohttp.answers import (
    ActiveUserCount,
    Hour,
    Hours,
    Minute,
    Minutes,
    RoomMessage,
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
from chatflow.domain.reading import cached_body as kept
from chatflow.domain.reading.answers import (
    ActiveUsers,
    Answer,
    Answered,
    Patterns,
    Source,
    Throughput,
    TopRooms,
    TopUsers,
    Total,
    UserPage,
    UserRooms,
)
from chatflow.domain.reading.queries import AnswerEncoder
from chatflow.ports.messages import StoredMessage

_encoder = msgspec.json.Encoder()


class JsonAnswers:
    """The JSON object of an answer, without what frames it."""

    def answer(self, answer: Answer) -> bytes:
        """Any answer but a room page."""
        return _encoder.encode(_wire(answer))

    def row(self, stored: StoredMessage) -> bytes:
        """One message of a room's page."""
        return _encoder.encode(_room_message(stored))

    def room_page(self, room_id: str, limit: int, rows: Sequence[bytes], next_cursor: str | None) -> bytes:
        """The page of these rows: a `RoomMessages`."""
        start = b'{"roomId":%b,"limit":%d,"resultCount":%d,"messages":[' % (_encoder.encode(room_id), limit, len(rows))
        end = b"]}" if next_cursor is None else b'],"nextCursor":%b}' % _encoder.encode(next_cursor)
        return b"".join((start, b",".join(rows), end))


def framed(query: str, answered: Answered) -> tuple[bytes, memoryview]:
    """The whole JSON object: what differs each time, then the body as it is."""
    cached = "true" if answered.source is not Source.MISS else "false"
    head = f'{{"query":"{query}","queryTimeMs":{int(answered.took_s * 1000)},"cached":{cached},'
    return head.encode(), kept.body_of(answered.value)[1:]


@singledispatch
def _wire(answer: Any) -> Struct:
    raise TypeError(type(answer))


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
    return RoomsOfUser(answer.user_id, len(rooms), rooms)


@_wire.register
def _(answer: Throughput) -> Struct:
    return Minutes([Minute(format_timestamp(m.minute_us), m.message_count) for m in answer.minutes])


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


if TYPE_CHECKING:
    _encodes: AnswerEncoder = JsonAnswers()
