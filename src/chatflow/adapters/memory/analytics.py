"""Counts over a store in memory, made anew for each query."""

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import attrs

from chatflow.adapters.memory.store import MemoryTables, is_within
from chatflow.ports.messages import Message
from chatflow.ports.store import ActivityCursor, HourCount, MinuteCount, RoomCount, TimeWindow, UserCount, UserRoom

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000


@attrs.define(eq=False)
class MemoryAnalytics:
    """``Analytics``; each query reads every message."""

    tables: MemoryTables

    async def active_users(self, window: TimeWindow) -> int:
        return len({row.message.user_id for row in self.tables.rows if is_within(row, window)})

    async def user_rooms(self, user_id: int, *, limit: int, after: ActivityCursor | None = None) -> list[UserRoom]:
        rooms: defaultdict[str, list[int]] = defaultdict(list)
        for message in self._messages():
            if message.user_id == user_id:
                rooms[message.room_id].append(message.accepted_at_us)
        counted = [UserRoom(room, max(times), len(times)) for room, times in rooms.items()]
        start = (-after.last_activity_us, after.room_id) if after else (-math.inf, "")
        later = [each for each in counted if _rank(each) > start]
        return sorted(later, key=_rank)[: max(limit, 0)]

    async def throughput(self, limit: int) -> list[MinuteCount]:
        minutes = Counter(message.accepted_at_us // MINUTE_US * MINUTE_US for message in self._messages())
        newest = sorted(minutes, reverse=True)[: max(limit, 0)]
        return [MinuteCount(minute, minutes[minute]) for minute in newest]

    async def top_users(self, n: int) -> list[UserCount]:
        counts: Counter[int] = Counter()
        latest: dict[int, tuple[int, str]] = {}
        for message in self._messages():
            user = message.user_id
            counts[user] += 1
            latest[user] = max(latest.get(user, (0, "")), (message.accepted_at_us, message.username))
        top = sorted(counts, key=lambda user: (-counts[user], user))[: max(n, 0)]
        return [UserCount(user, latest[user][1], counts[user]) for user in top]

    async def top_rooms(self, n: int) -> list[RoomCount]:
        rooms = self.tables.rooms
        top = sorted(rooms, key=lambda room: (-len(rooms[room]), room))[: max(n, 0)]
        return [RoomCount(room, len(rooms[room]), len({row.message.user_id for row in rooms[room]})) for room in top]

    async def patterns(self) -> list[HourCount]:
        hours: defaultdict[int, list[int]] = defaultdict(list)
        for message in self._messages():
            hours[message.accepted_at_us // HOUR_US % 24].append(message.user_id)
        return [HourCount(hour, len(users), len(set(users))) for hour, users in sorted(hours.items())]

    async def total_messages(self) -> int:
        return len(self.tables.by_key)

    def _messages(self) -> list[Message]:
        return [row.message for row in self.tables.rows]


def _rank(each: UserRoom) -> tuple[int, str]:
    return -each.last_activity_us, each.room_id


if TYPE_CHECKING:
    from chatflow.ports.store import Analytics

    _: type[Analytics] = MemoryAnalytics
