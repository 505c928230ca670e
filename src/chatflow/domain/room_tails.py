"""The newest messages of rooms that are read often, so that a commit costs their next reader only what is new.

A stored message does not change, and a room's messages become visible in the order of their numbers, without gaps. So
what was the newest part of a room stays the lower part of its newest page: only what came after it has to be read.
"""

from collections import OrderedDict
from collections.abc import Sequence

import attrs

from chatflow.ports.clock import Clock
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import MessageReader

TAIL_S = 60.0
"""After which a tail is read anew as a whole, like any old page in L1."""


@attrs.frozen(eq=False)
class _Tail:
    messages: tuple[StoredMessage, ...]
    read_at: float

    def reaches(self, count: int) -> bool:
        """Whether it has so many of the room's newest messages, or all there are."""
        return len(self.messages) >= count or self.messages[-1].seq == 1


@attrs.define(eq=False)
class RoomTails:
    """Bounded by messages: the rooms that were least recently read go first.

    Attributes:
        clock: monotonic seconds.
        limit_messages: kept of all rooms together.
    """

    reader: MessageReader
    clock: Clock
    limit_messages: int = attrs.field(default=20_000, kw_only=True)
    held: int = attrs.field(default=0, init=False)
    _tails: OrderedDict[str, _Tail] = attrs.field(factory=OrderedDict, init=False)

    async def newest(self, room_id: str, limit: int) -> Sequence[StoredMessage]:
        """The room's newest messages as of now, newest first; raises what the reader raises."""
        tail = self._tails.get(room_id)
        if tail is not None and tail.reaches(limit) and self.clock() - tail.read_at < TAIL_S:
            later = await self.reader.room_range(room_id, after_seq=tail.messages[0].seq, limit=limit)
            if len(later) < limit:
                messages = (*reversed(later), *tail.messages)
                self._keep(room_id, _Tail(messages[: max(limit, len(tail.messages))], tail.read_at))
                return messages[:limit]
        read_at = self.clock()
        messages = tuple(await self.reader.room_page(room_id, limit=limit))
        if messages:
            self._keep(room_id, _Tail(messages, read_at))
        return messages

    def _keep(self, room_id: str, tail: _Tail) -> None:
        before = self._tails.pop(room_id, None)
        self.held += len(tail.messages) - (len(before.messages) if before is not None else 0)
        self._tails[room_id] = tail
        while self.held > self.limit_messages:
            _, forgotten = self._tails.popitem(last=False)
            self.held -= len(forgotten.messages)
