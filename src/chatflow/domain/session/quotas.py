"""How much one user may write, and how many sessions and connections there may be: over it, the answer is final.

Counted in each gateway. Where nobody proves who they are, a connection stands for its user: a user's quota could be
used up by anybody who claims the name.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable

import attrs

from chatflow.domain.session.errors import Denied
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.rates import says_something
from chatflow.ports.broker import size_of
from chatflow.ports.clock import Clock
from chatflow.ports.messages import Message

HOUR_S, DAY_S = 3_600.0, 86_400.0
CONNECTIONS_PER_ADDRESS, SESSIONS_PER_USER = 0, 1_000
"""The defaults, of the settings too. Behind a proxy that is not trusted, one address stands for everybody."""

WRITERS_MAX = 100_000


@attrs.define(eq=False)
class _Written:
    """What one user has written since two moments."""

    hour_at: float
    day_at: float
    rooms: set[str] = attrs.field(factory=set)
    size_bytes: int = 0


@attrs.define(eq=False)
class Quotas:
    """The quotas of one gateway; 0 is none.

    Args:
        rooms_per_hour: rooms that a user writes to and has not written to before in this hour.
        bytes_per_day: of a user's messages, as they are estimated everywhere (`size_of`).

    Attributes:
        are_written: whether `write` need be called.
    """

    clock: Clock
    metrics: SessionMetrics
    connections_per_address: int = CONNECTIONS_PER_ADDRESS
    sessions_per_user: int = SESSIONS_PER_USER
    rooms_per_hour: int = 0
    bytes_per_day: int = 0
    are_written: bool = attrs.field(init=False)
    _connections: Counter[str] = attrs.field(factory=Counter, init=False)
    _written: OrderedDict[Hashable, _Written] = attrs.field(factory=OrderedDict, init=False)

    def __attrs_post_init__(self) -> None:
        self.are_written = bool(self.rooms_per_hour or self.bytes_per_day)

    def admits(self, address: str) -> bool:
        """Whether one more connection may come from there; loopback and unknown addresses are not counted."""
        most = self.connections_per_address
        if not most or self._connections[address] < most or not says_something(address):
            return True
        self.metrics.connections_refused += 1
        return False

    def connected(self, address: str) -> None:
        """One more."""
        self._connections[address] += 1

    def disconnected(self, address: str) -> None:
        """One less."""
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def check_sessions(self, open_sessions: int) -> None:
        """Whether a user who has so many may have one more.

        Raises:
            Denied: no.
        """
        if self.sessions_per_user and open_sessions >= self.sessions_per_user:
            self.metrics.sessions_refused += 1
            raise Denied("forbidden", f"at most {self.sessions_per_user} sessions per user")

    def write(self, writer: Hashable, message: Message) -> None:
        """Count a message before it is offered.

        Raises:
            Denied: it is one too many.
        """
        now = self.clock()
        written = self._of(writer, now)
        if self.rooms_per_hour and message.room_id not in written.rooms:
            if len(written.rooms) >= self.rooms_per_hour:
                self.metrics.quota_refused += 1
                raise Denied("forbidden", f"at most {self.rooms_per_hour} new rooms per hour")
            written.rooms.add(message.room_id)
        size = size_of(message)
        if self.bytes_per_day and written.size_bytes + size > self.bytes_per_day:
            self.metrics.quota_refused += 1
            raise Denied("forbidden", f"at most {self.bytes_per_day} bytes of messages per day")
        written.size_bytes += size

    def _of(self, writer: Hashable, now: float) -> _Written:
        written = self._written.get(writer)
        if written is None:
            written = self._written[writer] = _Written(now, now)
            if len(self._written) > WRITERS_MAX:
                self._written.popitem(last=False)
        if now - written.hour_at >= HOUR_S:
            written.hour_at = now
            written.rooms.clear()
        if now - written.day_at >= DAY_S:
            written.day_at, written.size_bytes = now, 0
        return written
