"""The newest messages of rooms that are read often, encoded, and extended by the commits that the feed brings.

A stored message does not change, and a room's messages become visible in the order of their ``seq``, without gaps. So
the newest part of a room stays the lower part of its newest page; only what continues it is needed, from the feed or
else from the store.

A tail is current while the feed brought the messages of every commit to its room. A commit without messages, or a gap,
ends that until the store is read. And a tail counts as current for no longer than a page may stay in the local cache,
counted from the last read or commit that confirmed it.
"""

import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence

import attrs

from chatflow.domain.reading import cursors
from chatflow.domain.reading.answers import Answer, EncodedRows
from chatflow.domain.reading.query import Reading
from chatflow.ports.clock import Clock
from chatflow.ports.commit_feed import Commit
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import MessageReader

TAIL_S = 60.0
"""Age at which a tail is read anew as a whole, like any older page in the local cache."""


@attrs.frozen
class NewestPage:
    """The newest page of a room. ``tag``: the room's cache tag."""

    room_id: str
    tag: str
    limit: int

    @property
    def reach(self) -> int:
        """Messages needed for the page and to know whether another one follows."""
        return self.limit + 1


@attrs.define(eq=False)
class _Tail:
    """``rows``: encoded, newest first, from ``head`` downwards. ``wanted``: the most that any page needs."""

    encode: Callable[[StoredMessage], bytes]
    wanted: int
    read_at: float
    head: int
    rows: deque[bytes] = attrs.field(factory=deque)
    size_bytes: int = 0
    confirmed_at: float = 0.0
    is_current: bool = False

    def reaches(self, count: int) -> bool:
        """Whether it holds the room's ``count`` newest messages, or all of them."""
        return len(self.rows) >= count or len(self.rows) == self.head

    def extend(self, messages: Sequence[StoredMessage]) -> bool:
        """Append what continues it, ascending; ``False`` if there is a gap."""
        for stored in messages:
            if stored.seq <= self.head:
                continue
            if stored.seq != self.head + 1:
                return False
            row = self.encode(stored)
            self.rows.appendleft(row)
            self.head += 1
            self.size_bytes += len(row)
            if len(self.rows) > self.wanted:
                self.size_bytes -= len(self.rows.pop())
        return True


@attrs.define(eq=False)
class _StoreRead:
    """One read of the store under way. ``heard``: commits meanwhile; ``None``: one came without its messages."""

    heard: list[Sequence[StoredMessage]] | None = attrs.field(factory=list)

    def hear(self, messages: Sequence[StoredMessage] | None) -> None:
        if messages is None:
            self.heard = None
        elif self.heard is not None:
            self.heard.append(messages)


@attrs.define(eq=False)
class RoomTails:
    """Bounded by bytes: the least recently read rooms go first.

    Attributes:
        encode: the edge's; of `EncodedRows`.
        encode_row: the edge's; of one message of such a page.
        clock: monotonic seconds.
        fresh_s: how long after it was confirmed a tail counts as current.
        tag_of: the tag of a room.
        limit_bytes: of all rows together.
    """

    encode: Callable[[Answer], bytes]
    encode_row: Callable[[StoredMessage], bytes]
    clock: Clock
    fresh_s: float = attrs.field(kw_only=True)
    tag_of: Callable[[str], str] = attrs.field(kw_only=True)
    limit_bytes: int = attrs.field(default=16 * 1024 * 1024, kw_only=True)
    held_bytes: int = attrs.field(default=0, init=False)
    _tails: OrderedDict[str, _Tail] = attrs.field(factory=OrderedDict, init=False)
    _readings: dict[str, list[_StoreRead]] = attrs.field(factory=dict, init=False)

    def page(self, page: NewestPage) -> tuple[Reading, float] | None:
        """The page, and the seconds for which it may be kept; ``None``: the store has to be read."""
        tail, now = self._tails.get(page.tag), self.clock()
        if tail is None or not tail.is_current or not self._serves(tail, page, now):
            return None
        left_s = tail.confirmed_at + self.fresh_s - now
        if left_s <= 0:
            return None
        tail.wanted = max(tail.wanted, page.reach)
        self._tails.move_to_end(page.tag)
        return self._encoded(tail, page), left_s

    async def read(self, reader: MessageReader, page: NewestPage) -> Reading:
        """The page, after reading what is not known from the store; raises what the reader raises."""
        reading, started = _StoreRead(), self.clock()
        self._readings.setdefault(page.tag, []).append(reading)
        try:
            known = await self._continued(reader, page, started)
            tail = await self._whole(reader, page) if known is None else known
        finally:
            self._forget(page.tag, reading)
        heard = reading.heard
        tail.is_current = heard is not None and all(self._extend(page.tag, tail, messages) for messages in heard)
        tail.confirmed_at = started
        encoded = self._encoded(tail, page)
        self._keep(page.tag, tail)
        return encoded

    def hear(self, commit: Commit | None) -> None:
        """A commit; ``None``: there may have been any."""
        if commit is None:
            for each in self._tails.values():
                each.is_current = False
            for reading in itertools.chain.from_iterable(self._readings.values()):
                reading.hear(None)
            return
        brought: dict[str, list[StoredMessage]] = defaultdict(list)
        for stored in commit.stored:
            brought[self.tag_of(stored.message.room_id)].append(stored)
        for tag in commit.tags:
            messages = brought.get(tag)
            for reading in self._readings.get(tag, ()):
                reading.hear(messages)
            if (tail := self._tails.get(tag)) is not None:
                self._hear(tag, tail, messages)

    def _hear(self, tag: str, tail: _Tail, messages: Sequence[StoredMessage] | None) -> None:
        now = self.clock()
        if now - tail.read_at >= TAIL_S:
            self._drop(tag)
        elif messages is None or not self._extend(tag, tail, messages):
            tail.is_current = False
        elif tail.is_current:
            tail.confirmed_at = now

    async def _continued(self, reader: MessageReader, page: NewestPage, now: float) -> _Tail | None:
        tail = self._tails.get(page.tag)
        if tail is None or not self._serves(tail, page, now):
            return None
        tail.wanted = max(tail.wanted, page.reach)
        later = await reader.room_range(page.room_id, after_seq=tail.head, limit=page.reach)
        if len(later) == page.reach or not self._extend(page.tag, tail, later):
            return None
        return tail

    async def _whole(self, reader: MessageReader, page: NewestPage) -> _Tail:
        read_at = self.clock()
        messages = await reader.room_page(page.room_id, limit=page.reach)
        head = messages[0].seq - len(messages) if messages else 0
        tail = _Tail(self.encode_row, page.reach, read_at, head)
        tail.extend(list(reversed(messages)))
        return tail

    def _serves(self, tail: _Tail, page: NewestPage, now: float) -> bool:
        return tail.reaches(page.reach) and now - tail.read_at < TAIL_S

    def _encoded(self, tail: _Tail, page: NewestPage) -> Reading:
        rows = list(itertools.islice(tail.rows, page.limit))
        more = None
        if len(tail.rows) > page.limit:
            more = cursors.encode_room_cursor(page.room_id, tail.head - page.limit + 1)
        return Reading(self.encode(EncodedRows(page.room_id, page.limit, rows, more)), tail.head)

    def _extend(self, tag: str, tail: _Tail, messages: Sequence[StoredMessage]) -> bool:
        before = tail.size_bytes
        is_whole = tail.extend(messages)
        if self._tails.get(tag) is tail:
            self.held_bytes += tail.size_bytes - before
            self._shed()
        return is_whole

    def _keep(self, tag: str, tail: _Tail) -> None:
        self._drop(tag)
        if tail.rows:
            self._tails[tag] = tail
            self.held_bytes += tail.size_bytes
            self._shed()

    def _drop(self, tag: str) -> None:
        if (tail := self._tails.pop(tag, None)) is not None:
            self.held_bytes -= tail.size_bytes

    def _shed(self) -> None:
        while self.held_bytes > self.limit_bytes:
            self._drop(next(iter(self._tails)))

    def _forget(self, tag: str, reading: _StoreRead) -> None:
        readings = self._readings[tag]
        readings.remove(reading)
        if not readings:
            del self._readings[tag]
