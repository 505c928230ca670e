"""The tiers of one read: shared cache, one flight per key, store; and what each of them counted."""

import asyncio
import struct
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.answers import Answer, Answered, RoomPage, Source
from chatflow.domain.cache_policy import CachePolicy, Family, Freshness
from chatflow.domain.figures import LATENCY_BOUNDS_S, Histogram
from chatflow.domain.single_flight import SingleFlight
from chatflow.ports.cache import Cache, Lookup
from chatflow.ports.clock import Clock
from chatflow.ports.errors import CacheUnavailable, ChatflowError

REFRESHES = 8
"""Most refreshes that run on their own at one time; the others wait for a later reader."""

_HEAD = struct.Struct(">Q")


def _latency() -> Histogram:
    return Histogram(LATENCY_BOUNDS_S)


@attrs.frozen(eq=False)
class Question:
    """One read.

    Attributes:
        query: names the kind of question in counts.
        key: equal keys have equal answers.
        tags: what invalidates the answer.
        read: asks the store.
    """

    query: str
    key: str
    family: Family
    tags: tuple[str, ...]
    read: Callable[[], Awaitable[Answer]]


@attrs.define(eq=False)
class QueryFigures:
    """Counts since start. ``answers``: by query and source; ``took_s``: seconds of answering, by query."""

    answers: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    took_s: defaultdict[str, Histogram] = attrs.field(factory=lambda: defaultdict(_latency))
    stale: int = 0
    refreshes: int = 0
    cache_errors: int = 0

    def from_source(self, source: Source) -> int:
        """Answers to any query that came from this tier."""
        return sum(count for (_, tier), count in self.answers.items() if tier == source)


@attrs.define(eq=False)
class ReadThrough:
    """Answers questions; holds at most one store read per key and version of its tags."""

    cache: Cache | None
    policy: CachePolicy = attrs.field(kw_only=True)
    encode: Callable[[Answer], bytes] = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    draw: Callable[[], float] = attrs.field(kw_only=True)
    figures: QueryFigures = attrs.field(init=False, factory=QueryFigures)
    _flights: SingleFlight[bytes] = attrs.field(init=False, factory=SingleFlight)
    _refreshes: dict[str, asyncio.Task[None]] = attrs.field(init=False, factory=dict)
    _cost_s: dict[Family, float] = attrs.field(init=False, factory=dict)

    async def ask(self, question: Question) -> Answered:
        """From the nearest tier that has it."""
        started = self.clock()
        lookup = await self._look_up(question)
        if lookup is not None and lookup.value is not None and self._may_serve(question, lookup):
            return self._answered(question, lookup.value, Source.L2, started)
        value = await self._fetch(question, lookup)
        return self._answered(question, value, Source.MISS, started)

    async def ask_from(self, question: Question, min_head: int, catch_up: Callable[[], Awaitable[None]]) -> Answered:
        """Like ``ask``, but never a page that was read while the room's head may have been below ``min_head``.

        A read of the store starts only after ``catch_up`` returned, and joins no flight that began earlier.
        """
        started = self.clock()
        lookup = await self._look_up(question)
        if lookup is not None and lookup.value is not None and _head(lookup.value) >= min_head:
            return self._answered(question, lookup.value, Source.L2, started)
        await catch_up()
        value = await self._read_and_keep(question, lookup)
        return self._answered(question, value, Source.MISS, started)

    async def close(self) -> None:
        """Stop every refresh under way."""
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answered(self, question: Question, value: bytes, source: Source, started: float) -> Answered:
        took_s = self.clock() - started
        self.figures.answers[question.query, source] += 1
        self.figures.took_s[question.query].observe(took_s)
        return Answered(value[_HEAD.size :], source, took_s)

    async def _look_up(self, question: Question) -> Lookup | None:
        if self.cache is None:
            return None
        try:
            return await self.cache.get(question.key, question.tags)
        except CacheUnavailable:
            self.figures.cache_errors += 1
            return None

    def _may_serve(self, question: Question, lookup: Lookup) -> bool:
        cost_s = self._cost_s.get(question.family, 0.0)
        freshness = self.policy.freshness(question.family, age_s=lookup.age_s, cost_s=cost_s, draw=self.draw())
        if freshness is Freshness.REFRESH:
            self.figures.stale += 1
            self._refresh(question, lookup)
        return freshness is not Freshness.EXPIRED

    async def _fetch(self, question: Question, lookup: Lookup | None) -> bytes:
        """One read for all who found the same version.

        Flights are told apart by version: who asks after a commit never joins a read that began before it. While the
        version cannot be known, an answer may be as old as one read takes.
        """
        if self.cache is None:
            return await self._read(question)
        stamps = None if lookup is None else lookup.version.stamps
        return await self._flights.run((question.key, stamps), lambda: self._read_and_keep(question, lookup))

    async def _read_and_keep(self, question: Question, lookup: Lookup | None) -> bytes:
        value = await self._read(question)
        if self.cache is not None and lookup is not None:
            ttl_s = self.policy.rule(question.family).l2_ttl_s
            try:
                await self.cache.put(question.key, value, tags=question.tags, version=lookup.version, ttl_s=ttl_s)
            except CacheUnavailable:
                self.figures.cache_errors += 1
        return value

    async def _read(self, question: Question) -> bytes:
        started = self.clock()
        answer = await question.read()
        self._cost_s[question.family] = self.clock() - started
        head = answer.head if isinstance(answer, RoomPage) else 0
        return _HEAD.pack(head) + self.encode(answer)

    def _refresh(self, question: Question, lookup: Lookup) -> None:
        """Start one refresh of this key, unless there is one or too many others."""
        if question.key in self._refreshes or len(self._refreshes) >= REFRESHES:
            return
        self.figures.refreshes += 1
        task = asyncio.ensure_future(self._refresh_quietly(question, lookup))
        self._refreshes[question.key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(question.key))

    async def _refresh_quietly(self, question: Question, lookup: Lookup) -> None:
        try:
            await self._fetch(question, lookup)
        except ChatflowError:
            return  # the cached value serves until its end; then a reader meets the error


def _head(value: bytes) -> int:
    head: int = _HEAD.unpack_from(value)[0]
    return head
