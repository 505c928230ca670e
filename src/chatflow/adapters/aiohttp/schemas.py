"""The JSON of every answer, as types: what is encoded and what the OpenAPI document says are the same.

The fields that differ each time (``query``, ``queryTimeMs``, ``cached``) frame these bodies; only the types that
document them have these fields.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType


class RoomMessage(Struct, rename="camel"):
    """One stored message: `timestamp` is the client's clock, `serverTimestamp` when it was accepted."""

    message_id: str
    seq: int
    user_id: int
    username: str
    message: str
    message_type: str
    timestamp: str
    server_timestamp: str


class UserMessage(Struct, rename="camel"):
    """One stored message and its room."""

    message_id: str
    room_id: str
    seq: int
    user_id: int
    username: str
    message: str
    message_type: str
    timestamp: str
    server_timestamp: str


class RoomMessages(Struct, rename="camel"):
    """A page of a room; without `nextCursor` it is the last."""

    room_id: str
    limit: int
    result_count: int
    messages: list[RoomMessage]
    next_cursor: str | UnsetType = UNSET


class UserMessages(Struct, rename="camel"):
    """A page of a user's history; without `nextCursor` it is the last."""

    user_id: int
    limit: int
    result_count: int
    messages: list[UserMessage]
    next_cursor: str | UnsetType = UNSET


class ActiveUserCount(Struct, rename="camel"):
    """Different users in a window; `null`: open."""

    start_time: str | None
    end_time: str | None
    active_user_count: int


class RoomOfUser(Struct, rename="camel"):
    """A room the user has written in, and how much."""

    room_id: str
    last_activity: str
    message_count: int


class RoomsOfUser(Struct, rename="camel"):
    """A page of a user's rooms, latest activity first; without `nextCursor` it is the last."""

    user_id: int
    limit: int
    result_count: int
    rooms: list[RoomOfUser]
    next_cursor: str | UnsetType = UNSET


class Minute(Struct, rename="camel"):
    """Messages accepted in the minute that starts at this time."""

    minute: str
    message_count: int


class Minutes(Struct, rename="camel"):
    """Newest first, at most `limit` minutes, only those that have messages."""

    limit: int
    data: list[Minute]


class TopUser(Struct, rename="camel"):
    """A user and how many messages they have stored."""

    user_id: int
    username: str
    message_count: int


class TopUserList(Struct, rename="camel"):
    """Most messages first, then the smaller id."""

    top_n: int
    users: list[TopUser]


class TopRoom(Struct, rename="camel"):
    """A room, its messages, and how many different users wrote them."""

    room_id: str
    message_count: int
    unique_users: int


class TopRoomList(Struct, rename="camel"):
    """Most messages first, then the smaller id."""

    top_n: int
    rooms: list[TopRoom]


class Hour(Struct, rename="camel"):
    """One hour of the day, UTC, over all days."""

    hour_of_day: int
    message_count: int
    unique_users: int


class Hours(Struct, rename="camel"):
    """Ascending, only hours that have messages."""

    data: list[Hour]


class TotalMessages(Struct):
    """All stored messages."""

    total_messages_in_db: int = msgspec.field(name="totalMessagesInDB")


class Refused(Struct):
    """``error`` is a code, ``reason`` says it in words."""

    error: str
    reason: str


def documented(body: type[Struct]) -> type[Struct]:
    """The type of a framed answer, for the OpenAPI document."""
    frame: list[tuple[str, Any]] = [("query", str), ("queryTimeMs", int), ("cached", bool)]
    fields = [
        (field.encode_name, field.type) if field.required else (field.encode_name, field.type, field.default)
        for field in msgspec.structs.fields(body)
    ]
    return msgspec.defstruct(
        f"{body.__name__}Answer", [*frame, *fields], kw_only=True, namespace={"__doc__": body.__doc__}
    )
