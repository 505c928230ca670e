"""Keep one sender's order over a refusal: what was refused first must be sent again first.

A sender with several messages under way cannot know that the first was refused when it sends the next. If that next
one were taken, the repeated first would be stored behind it. So a room's refused messages are *owed*: until they have
come again, oldest first, the room takes nothing else of this sender. This is go-back-N (Tanenbaum, *Computer
Networks*) with the message id as the sequence number.

A sender may give up. What it gave up must not hold up the rest, so an owed message that does not come again within
``repeat_within_s`` of its last refusal is forgotten, and all of them are when none came again for as long. That time
starts with `told` for messages on `hold`: before, the sender cannot know that it has something to repeat.
"""

import math
from bisect import insort

import attrs

from chatflow.ports.clock import Clock

Owed = tuple[int, str]
"""When a message first arrived, as a number that grows, and its id."""


@attrs.define(eq=False)
class _RoomDebts:
    """Owed messages by arrival, and what is known of each id until it is accepted.

    Attributes:
        refused_at: of those that are owed; infinite while their sender has not been told.
        untold: refusals that their sender has not been told of.
    """

    quiet_from: float
    owed: list[Owed] = attrs.field(factory=list)
    arrivals: dict[str, int] = attrs.field(factory=dict)
    refused_at: dict[str, float] = attrs.field(factory=dict)
    untold: dict[str, int] = attrs.field(factory=dict)

    def forget_oldest(self) -> None:
        _, message_id = self.owed.pop(0)
        del self.arrivals[message_id], self.refused_at[message_id]
        self.untold.pop(message_id, None)


@attrs.define(eq=False)
class SenderOrder:
    """The rooms of one connection in which something is owed; empty while nothing is refused.

    Args:
        repeat_within_s: how long an owed message holds up what follows it.
        limit: messages remembered per room, and rooms; the oldest is forgotten first.
    """

    clock: Clock
    repeat_within_s: float = 2.0
    limit: int = 1_024
    _rooms: dict[str, _RoomDebts] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        """Rooms in which something is owed or under way again."""
        return len(self._rooms)

    def admits(self, room_id: str, message_id: str | None) -> bool:
        """Whether this message may be taken now; ``None`` for one that its sender cannot repeat by id."""
        room = self._rooms.get(room_id)
        if room is None:
            return True
        now = self.clock()
        self._expire(room, now)
        if not room.owed:
            self._drop_if_settled(room_id, room)
            return True
        if message_id is None or message_id not in room.refused_at:
            return False
        room.quiet_from = now
        if room.owed[0][1] != message_id:
            return False
        del room.owed[0], room.refused_at[message_id]
        return True

    def refused(self, room_id: str, message_id: str, arrival: int, *, out_of_turn: bool) -> None:
        """It was refused as retryable, ``out_of_turn`` when only because something before it is owed."""
        now = self.clock()
        room = self._rooms.get(room_id)
        if room is None:
            room = self._rooms[room_id] = _RoomDebts(now)
            if len(self._rooms) > self.limit:
                del self._rooms[next(iter(self._rooms))]
        if not out_of_turn:
            room.quiet_from = now
        if message_id not in room.refused_at:
            insort(room.owed, (room.arrivals.setdefault(message_id, arrival), message_id))
        room.refused_at[message_id] = now
        if len(room.owed) > self.limit:
            room.forget_oldest()

    def hold(self, room_id: str, message_id: str) -> None:
        """Its refusal is on the way to the sender: keep it until `told` was called as often as this."""
        room = self._rooms.get(room_id)
        if room is not None and message_id in room.refused_at:
            room.untold[message_id] = room.untold.get(message_id, 0) + 1
            room.refused_at[message_id] = math.inf

    def told(self, room_id: str, message_id: str) -> None:
        """The sender knows of one refusal; if it was the last, the time to repeat begins."""
        room = self._rooms.get(room_id)
        if room is None or message_id not in room.untold:
            return
        room.untold[message_id] -= 1
        if not room.untold[message_id]:
            del room.untold[message_id]
            if message_id in room.refused_at:
                room.refused_at[message_id] = self.clock()

    def accepted(self, room_id: str, message_id: str) -> None:
        """It is confirmed; forget it."""
        room = self._rooms.get(room_id)
        if room is not None and message_id not in room.refused_at:
            room.arrivals.pop(message_id, None)
            room.untold.pop(message_id, None)
            self._drop_if_settled(room_id, room)

    def _expire(self, room: _RoomDebts, now: float) -> None:
        before = now - self.repeat_within_s
        none_came_again = room.quiet_from < before
        while room.owed and room.refused_at[room.owed[0][1]] < before:
            room.forget_oldest()
            while none_came_again and room.owed:
                room.forget_oldest()

    def _drop_if_settled(self, room_id: str, room: _RoomDebts) -> None:
        if not room.arrivals:
            del self._rooms[room_id]
