"""What this process keeps: a versioned cache of answers, and the newest messages of rooms.

The cache: least recently used goes first, in entries and in bytes.

A tag has a stamp from its first use until it is invalidated or crowded out; no stamp is ever given twice. So forgetting
a tag is the same as invalidating it, and the table of tags can be bounded too.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import attrs

from chatflow.domain.reading.room_tails import RoomTails
from chatflow.ports.cache import Lookup, Version
from chatflow.ports.clock import Clock
from chatflow.ports.commit_feed import Commit, CommitFeed

LIMIT_ENTRIES, LIMIT_BYTES = 10_000, 64 * 2**20
"""The defaults, of the settings too."""
ENTRY_OVERHEAD_BYTES = 200
"""What an entry costs besides its key and value."""


@attrs.frozen(eq=False)
class _Entry:
    value: bytes
    tags: tuple[str, ...]
    version: Version
    stored_at: float
    expires_at: float


@attrs.define(eq=False)
class LocalCache:
    """The promises of the port ``Cache``, without waiting. ``len`` is the number of entries.

    Attributes:
        clock: monotonic seconds.
        limit_bytes: keys, values and an overhead per entry; a value that alone passes it is not kept.
        limit_tags: stamps held; the least recently used is forgotten first.
        evictions: entries that had to make room, since start.
    """

    clock: Clock
    limit_entries: int = attrs.field(default=LIMIT_ENTRIES, kw_only=True, validator=attrs.validators.ge(1))
    limit_bytes: int = attrs.field(default=LIMIT_BYTES, kw_only=True, validator=attrs.validators.ge(1))
    limit_tags: int = attrs.field(default=100_000, kw_only=True, validator=attrs.validators.ge(1))
    size_bytes: int = attrs.field(default=0, init=False)
    evictions: int = attrs.field(default=0, init=False)
    _entries: OrderedDict[str, _Entry] = attrs.field(init=False, factory=OrderedDict)
    _stamps: OrderedDict[str, str] = attrs.field(init=False, factory=OrderedDict)
    _fresh: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: str, tags: Sequence[str]) -> Lookup:
        """The value and the version of its tags."""
        version = Version(tuple(map(self._stamp, tags)))
        entry = self._entries.get(key)
        if entry is None:
            return Lookup(None, version)
        now = self.clock()
        if now >= entry.expires_at or not self._is_current(entry.tags, entry.version):
            self._drop(key)
            return Lookup(None, version)
        self._entries.move_to_end(key)
        return Lookup(entry.value, version, now - entry.stored_at)

    def keep(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """Keep a value that was read after ``find`` gave ``version``; not at all if that is outdated."""
        names = tuple(tags)
        if ttl_s <= 0 or _cost(key, value) > self.limit_bytes or not self._is_current(names, version):
            return
        self._drop(key)
        now = self.clock()
        self._entries[key] = _Entry(value, names, version, now, now + ttl_s)
        self.size_bytes += _cost(key, value)
        while len(self._entries) > self.limit_entries or self.size_bytes > self.limit_bytes:
            self._drop(next(iter(self._entries)))
            self.evictions += 1

    def forget(self, tags: Sequence[str] | None) -> None:
        """End the version of these tags; ``None``: drop everything."""
        if tags is None:
            self._stamps.clear()
            self._entries.clear()
            self.size_bytes = 0
            return
        for tag in tags:
            self._stamps.pop(tag, None)

    def _stamp(self, tag: str) -> str:
        stamp = self._stamps.get(tag)
        if stamp is None:
            stamp = self._stamps[tag] = str(next(self._fresh))
            if len(self._stamps) > self.limit_tags:
                self._stamps.popitem(last=False)
        else:
            self._stamps.move_to_end(tag)
        return stamp

    def _is_current(self, tags: tuple[str, ...], version: Version) -> bool:
        return len(tags) == len(version.stamps) and all(
            self._stamps.get(tag) == stamp for tag, stamp in zip(tags, version.stamps, strict=True)
        )

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= _cost(key, entry.value)


@attrs.define(eq=False)
class LocalTier:
    """What this process keeps: answers, the newest messages of rooms, and the feed that keeps both coherent."""

    answers: LocalCache
    tails: RoomTails
    feed: CommitFeed

    async def follow(self) -> None:
        """Follow the feed until cancelled; the tier is off without it."""
        await self.feed.follow(self._hear)

    def _hear(self, commit: Commit | None) -> None:
        self.answers.forget(None if commit is None else commit.tags)
        self.tails.hear(commit)


def _cost(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES
