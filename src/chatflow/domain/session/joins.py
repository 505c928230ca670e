"""The rooms that one session is in, or is about to be."""

from collections.abc import Callable

import attrs

from chatflow.domain.session.answers import joined, left
from chatflow.domain.session.effects import Join, Leave
from chatflow.domain.session.errors import Denied, Superseded
from chatflow.domain.session.sends import SendingSession
from chatflow.ports.errors import ChatflowError


@attrs.define(eq=False)
class Joins:
    """At most one join per room: a later join or leave supersedes it. Each join is answered exactly once."""

    session: SendingSession
    _rooms: dict[str, Join] = attrs.field(factory=dict, init=False)

    def check_room_for(self, room_id: str) -> None:
        """Whether there is room for one more.

        Raises:
            Denied: the connection is in as many rooms as it may be.
        """
        most = self.session.context.rooms_per_connection
        if room_id not in self._rooms and len(self._rooms) >= most:
            raise Denied("forbidden", f"at most {most} rooms per connection")

    def join(self, room_id: str, ref: object, since: int | None) -> None:
        """Begin; the answer comes later."""
        self.leave(room_id)
        self.session.inflight.count += 1
        join = self._rooms[room_id] = Join(room_id, ref, since)
        self.session.effects.append(join)

    def leave(self, room_id: str) -> None:
        """Leave the room, and give up a join that has no answer."""
        if join := self._rooms.pop(room_id, None):
            self.session.effects.append(Leave(join))
            if not join.is_answered:
                self._settle(join)
                self.session.error(join.ref, Superseded())

    def leave_unless(self, may_stay: Callable[[str], bool]) -> None:
        """Leave the rooms that may not be read any more, and say so."""
        for room_id in [room_id for room_id in self._rooms if not may_stay(room_id)]:
            self.leave(room_id)
            self.session.answer(left(None, room_id))

    def leave_all(self) -> None:
        """The connection has gone."""
        for room_id in tuple(self._rooms):
            self.leave(room_id)

    def joined(self, join: Join, head: int, *, recovered: bool) -> None:
        """The subscription stands at the room's last seq, ``head``; ``recovered`` if everything after since follows."""
        self._settle(join)
        self.session.answer(joined(join.ref, join.room_id, head, recovered=recovered))

    def failed(self, join: Join, error: ChatflowError) -> None:
        """The subscription could not be made."""
        if self._rooms.get(join.room_id) is join:
            del self._rooms[join.room_id]
        self._settle(join)
        self.session.error(join.ref, error)

    def _settle(self, join: Join) -> None:
        if not join.is_answered:
            join.is_answered = True
            self.session.inflight.settle()
