"""``/api/all``: one answer to each query, and the fleet's metrics."""

from typing import TypeVar

import attrs
import msgspec
from msgspec import UNSET, Struct, UnsetType

from chatflow.adapters.aiohttp import parameters, schemas
from chatflow.adapters.aiohttp.encoding import body_of
from chatflow.adapters.aiohttp.fleet_answers import FleetMetrics
from chatflow.domain.reading.answers import Answered, Tier
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.store import TimeWindow

DEFAULT_ROOM = "1"

B = TypeVar("B", bound=Struct)


class CoreRoomMessages(Struct, rename="camel"):
    """The newest page of a room."""

    room_id: str
    limit: int
    count: int
    result_count: int
    query_time_ms: int
    messages: list[schemas.RoomMessage]
    next_cursor: str | UnsetType = UNSET


class CoreUserHistory(Struct, rename="camel"):
    """The newest page of a user."""

    user_id: int
    limit: int
    count: int
    result_count: int
    query_time_ms: int
    messages: list[schemas.UserMessage]
    next_cursor: str | UnsetType = UNSET


class CoreActiveUsers(Struct, rename="camel"):
    """Different users of all time."""

    start_time: str | None
    end_time: str | None
    count: int
    active_user_count: int
    query_time_ms: int


class CoreUserRooms(Struct, rename="camel"):
    """The rooms of a user with the latest activity."""

    user_id: int
    limit: int
    result_count: int
    query_time_ms: int
    rooms: list[schemas.RoomOfUser]
    next_cursor: str | UnsetType = UNSET


class EverythingAnswer(Struct):
    """One answer to every query, each with its own time."""

    query: str
    query_time_ms: int = msgspec.field(name="queryTimeMs")
    cached: bool
    system_metrics: FleetMetrics = msgspec.field(name="systemMetrics")
    room_messages: CoreRoomMessages = msgspec.field(name="coreQuery1_roomMessages")
    user_history: CoreUserHistory = msgspec.field(name="coreQuery2_userHistory")
    active_users: CoreActiveUsers = msgspec.field(name="coreQuery3_activeUsers")
    user_rooms: CoreUserRooms = msgspec.field(name="coreQuery4_userRooms")
    throughput: list[schemas.Minute] = msgspec.field(name="analytics_messagesPerMinute")
    top_users: list[schemas.TopUser] = msgspec.field(name="analytics_topUsers")
    top_rooms: list[schemas.TopRoom] = msgspec.field(name="analytics_topRooms")
    patterns: list[schemas.Hour] = msgspec.field(name="analytics_participationPatterns")
    total: int = msgspec.field(name="totalMessagesInDB")


@attrs.frozen
class Everything:
    """One answer to each query, each from its own tier."""

    room: Answered
    user: Answered
    active: Answered
    user_rooms: Answered
    throughput: Answered
    top_users: Answered
    top_rooms: Answered
    patterns: Answered
    total: Answered


async def answer_everything(queries: QueryService) -> Everything:
    """Every query once with its defaults, one after the other: one caller takes no more than one reader."""
    room_id, user_id, limit, n = (
        DEFAULT_ROOM,
        parameters.USER.default,
        parameters.LIMIT.default,
        parameters.TOP.default,
    )
    return Everything(
        room=await queries.answer(queries.room(room_id, limit=limit)),
        user=await queries.answer(queries.user(user_id, limit=limit)),
        active=await queries.answer(queries.active_users(TimeWindow())),
        user_rooms=await queries.answer(queries.user_rooms(user_id, limit=parameters.ROOMS.default)),
        throughput=await queries.answer(queries.throughput(parameters.MINUTES.default)),
        top_users=await queries.answer(queries.top_users(n)),
        top_rooms=await queries.answer(queries.top_rooms(n)),
        patterns=await queries.answer(queries.patterns()),
        total=await queries.answer(queries.total()),
    )


def source_of(everything: Everything) -> Tier:
    """The farthest tier that any part came from."""
    sources = {part.source for part in _parts(everything)}
    return next(tier for tier in (Tier.MISS, Tier.SHARED, Tier.LOCAL) if tier in sources)


def encode_everything(query: str, everything: Everything, metrics: FleetMetrics) -> bytes:
    """The body of the answer."""
    return msgspec.json.encode(
        EverythingAnswer(
            query=query,
            query_time_ms=sum(map(_ms, _parts(everything))),
            cached=source_of(everything) is not Tier.MISS,
            system_metrics=metrics,
            room_messages=_room(everything.room),
            user_history=_user(everything.user),
            active_users=_active(everything.active),
            user_rooms=_rooms(everything.user_rooms),
            throughput=_read(everything.throughput, schemas.Minutes).data,
            top_users=_read(everything.top_users, schemas.TopUserList).users,
            top_rooms=_read(everything.top_rooms, schemas.TopRoomList).rooms,
            patterns=_read(everything.patterns, schemas.Hours).data,
            total=_read(everything.total, schemas.TotalMessages).total_messages_in_db,
        )
    )


def _parts(everything: Everything) -> tuple[Answered, ...]:
    e = everything
    return (
        e.room, e.user, e.active, e.user_rooms, e.throughput, e.top_users, e.top_rooms, e.patterns, e.total
    )  # fmt: skip


def _read(answered: Answered, body: type[B]) -> B:
    return msgspec.json.decode(body_of(answered), type=body)


def _ms(answered: Answered) -> int:
    return int(answered.took_s * 1000)


def _room(answered: Answered) -> CoreRoomMessages:
    page = _read(answered, schemas.RoomMessages)
    return CoreRoomMessages(
        page.room_id,
        page.limit,
        page.result_count,
        page.result_count,
        _ms(answered),
        page.messages,
        page.next_cursor,
    )


def _user(answered: Answered) -> CoreUserHistory:
    page = _read(answered, schemas.UserMessages)
    return CoreUserHistory(
        page.user_id,
        page.limit,
        page.result_count,
        page.result_count,
        _ms(answered),
        page.messages,
        page.next_cursor,
    )


def _active(answered: Answered) -> CoreActiveUsers:
    active = _read(answered, schemas.ActiveUserCount)
    count = active.active_user_count
    return CoreActiveUsers(active.start_time, active.end_time, count, count, _ms(answered))


def _rooms(answered: Answered) -> CoreUserRooms:
    rooms = _read(answered, schemas.RoomsOfUser)
    return CoreUserRooms(rooms.user_id, rooms.limit, rooms.result_count, _ms(answered), rooms.rooms, rooms.next_cursor)
