"""Keep one sender's order over a refusal, whether or not the sender can repeat by id.

A sender with ids of its own repeats what was refused: `SenderOrder` admits nothing else to the room before. A sender
without ids can only be told: everything for the room is refused until the peer has certainly received the refusals,
that is, until the echo of a ping sent behind them has come back and nothing was refused meanwhile. A peer that never
pauses would be refused for ever; after ``limit_s`` it has made its choice and is let through.

The time to repeat by id starts with such an echo too: before, the peer may not know that it has something to repeat.
A peer's library answers pings while frames that came before wait behind a stalled reader, so the shell reports an echo
once everything that had arrived by then is handled. On a connection that is ending, what was refused stays refused:
frames may still come.
"""

from functools import partial

import attrs

from chatflow.domain.ingest.sender_order import SenderOrder
from chatflow.domain.session.effects import Effect, Timer
from chatflow.ports.clock import Clock

LIMIT_S = 1.0


@attrs.define(eq=False)
class _ShutRoom:
    """A room that refuses everything without an id."""

    room_id: str
    deadline: float
    refusals: int = 1


@attrs.frozen(eq=False)
class Echo:
    """A ping to send now; when its pong is back, everything refused before it has reached the peer.

    Attributes:
        rooms: shut rooms, and how much each had refused.
        told: refused messages with ids of their sender's, as room and id.
    """

    rooms: list[tuple[_ShutRoom, int]]
    told: list[tuple[str, str]]


@attrs.define(eq=False)
class ResendGuard:
    """The rooms of one connection in which not everything is admitted.

    Args:
        clock: seconds in which the connection was read from.
        effects: of the session; timers are added.

    Attributes:
        is_active: something is refused, or the sender is not told yet; while false, nothing here need be called.
    """

    clock: Clock
    effects: list[Effect]
    limit_s: float = LIMIT_S
    is_active: bool = attrs.field(default=False, init=False)
    _order: SenderOrder = attrs.field(init=False)
    _shut: dict[str, _ShutRoom] = attrs.field(factory=dict, init=False)
    _to_echo: list[_ShutRoom] = attrs.field(factory=list, init=False)
    _untold: list[tuple[str, str]] = attrs.field(factory=list, init=False)
    _is_telling: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._order = SenderOrder(self.clock)

    def admits(self, room_id: str, message_id: str | None) -> bool:
        """Whether a message may be taken now; ``None`` for one without an id of its sender's."""
        return room_id not in self._shut and self._order.admits(room_id, message_id)

    def refused(self, room_id: str, message_id: str | None, arrival: int, *, out_of_turn: bool) -> None:
        """A message was refused as retryable, ``out_of_turn`` when only for what was refused before it."""
        self.is_active = True
        if message_id is not None:
            self._order.refused(room_id, message_id, arrival, out_of_turn=out_of_turn)
            self._order.hold(room_id, message_id)
        elif (room := self._shut.get(room_id)) is not None:
            room.refusals += 1
        else:
            room = self._shut[room_id] = _ShutRoom(room_id, self.clock() + self.limit_s)
            self._to_echo.append(room)
            self.effects.append(Timer(self.limit_s, partial(self._reopen, room)))

    def sent(self, room_id: str, message_id: str) -> None:
        """The refusal of a message with an id of its sender's goes out with the next answers."""
        self.is_active = True
        self._untold.append((room_id, message_id))

    def accepted(self, room_id: str, message_id: str) -> None:
        """A message with an id of its sender's is safe."""
        self._order.accepted(room_id, message_id)
        self._rest()

    def take_echo(self) -> Echo | None:
        """The echo to ask for, if one is needed: one at a time for ids, one for each shut room."""
        told: list[tuple[str, str]] = []
        if self._untold and not self._is_telling:
            self._is_telling = True
            told, self._untold = self._untold, told
        if not told and not self._to_echo:
            return None
        rooms, self._to_echo = self._to_echo, []
        return Echo([(room, room.refusals) for room in rooms], told)

    def echoed(self, echo: Echo) -> None:
        """The pong is back, and what had arrived before it is handled. Ask `take_echo` for the next."""
        for room, refusals in echo.rooms:
            if room.refusals == refusals or self.clock() >= room.deadline:
                self._reopen(room)
            elif self._shut.get(room.room_id) is room:
                self._to_echo.append(room)
        if echo.told:
            self._is_telling = False
            for room_id, message_id in echo.told:
                self._order.told(room_id, message_id)

    def _reopen(self, room: _ShutRoom) -> None:
        if self._shut.get(room.room_id) is room:
            del self._shut[room.room_id]
            self._rest()

    def _rest(self) -> None:
        self.is_active = bool(self._shut or self._order or self._to_echo or self._untold)
