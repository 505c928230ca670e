"""The tiers of one read: this process's cache, the shared one, the store."""

import asyncio
from collections.abc import Callable

import attrs

from chatflow.domain.reading import cached_body as kept
from chatflow.domain.reading.answers import Answered, Source
from chatflow.domain.reading.cache_policy import Freshness
from chatflow.domain.reading.fetching import Fetcher, Seen
from chatflow.domain.reading.metrics import ReadingMetrics
from chatflow.domain.reading.queries import Question
from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.domain.resilience.tasks import end
from chatflow.ports.cache import Lookup
from chatflow.ports.errors import ChatflowError

REFRESHES = 8
"""Most refreshes that run on their own at one time; the others wait for a later reader."""


@attrs.define(eq=False)
class ReadThrough:
    """Answers questions from the nearest tier that has the answer.

    Attributes:
        draw: a uniform random number in ``[0, 1)``, for early refresh.
    """

    fetcher: Fetcher
    draw: Callable[[], float] = attrs.field(kw_only=True)
    _flights: SingleFlight[tuple[bytes, Source]] = attrs.field(init=False, factory=SingleFlight)
    _refreshes: dict[str, asyncio.Task[None]] = attrs.field(init=False, factory=dict)

    @property
    def metrics(self) -> ReadingMetrics:
        """Counts since start."""
        return self.fetcher.metrics

    def recall(self, question: Question) -> Answered | None:
        """The answer if this process has it, without waiting."""
        started = self.fetcher.clock()
        near = self._look_near(question)
        if near is None or near.value is None or kept.head_of(near.value) < question.min_head:
            return None
        return self._answered(question, near.value, Source.L1, started)

    async def ask(self, question: Question) -> Answered:
        """The answer."""
        started = self.fetcher.clock()
        near = self._look_near(question)
        if near is not None and near.value is not None and kept.head_of(near.value) >= question.min_head:
            value, source = near.value, Source.L1
        elif question.min_head:
            value, source = await self._from_beyond(question, near)
        elif near is None:
            value, source = await self._from_afar(question, None)
        else:
            flight = (question.key, near.version.stamps)
            value, source = await self._flights.run(flight, lambda: self._from_afar(question, near))
        return self._answered(question, value, source, started)

    async def _from_beyond(self, question: Question, near: Lookup | None) -> tuple[bytes, Source]:
        """Never a page that was read while the room's head may have been below ``min_head``.

        A read of the store starts only after the room has caught up, and joins no flight that began earlier.
        """
        seen = Seen(near, await self.fetcher.look_up(question))
        value = self._servable(question, seen)
        if value is not None and kept.head_of(value) >= question.min_head:
            return value, Source.L2
        if question.catch_up is not None:
            await question.catch_up()
        return await self.fetcher.read(question, seen), Source.MISS

    async def _from_afar(self, question: Question, near: Lookup | None) -> tuple[bytes, Source]:
        """The shared cache's answer or the store's; one question to it for all who found the same version near."""
        seen = Seen(near, await self.fetcher.look_up(question))
        if (value := self._servable(question, seen)) is not None:
            return value, Source.L2
        return await self.fetcher.fetch(question, seen)

    async def close(self) -> None:
        """Stop every refresh under way."""
        await end(list(self._refreshes.values()))

    def _answered(self, question: Question, value: bytes, source: Source, started: float) -> Answered:
        took_s = self.fetcher.clock() - started
        self.metrics.answers[question.query, source] += 1
        self.metrics.took_s[question.query].observe(took_s)
        return Answered(value, source, took_s)

    def _look_near(self, question: Question) -> Lookup | None:
        near = self.fetcher.near
        return None if near is None else near.find(question)

    def _servable(self, question: Question, seen: Seen) -> bytes | None:
        """What the shared cache has, if its age allows; it is then kept near too."""
        found = seen.shared
        if found is None or found.value is None:
            return None
        cost_s = self.fetcher.cost_s.get(question.family, 0.0)
        policy = self.fetcher.policy
        freshness = policy.freshness(question.family, age_s=found.age_s, cost_s=cost_s, draw=self.draw())
        if freshness is Freshness.EXPIRED:
            return None
        self.fetcher.keep_near(question, found.value, seen.near, age_s=found.age_s)
        if freshness is Freshness.REFRESH:
            self.metrics.stale += 1
            self._refresh(question, seen)
        return found.value

    def _refresh(self, question: Question, seen: Seen) -> None:
        """Start one refresh of this key, unless there is one or too many others."""
        if question.key in self._refreshes or len(self._refreshes) >= REFRESHES:
            return
        self.metrics.refreshes += 1
        task = asyncio.ensure_future(self._refresh_quietly(question, seen))
        self._refreshes[question.key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(question.key))

    async def _refresh_quietly(self, question: Question, seen: Seen) -> None:
        try:
            await self.fetcher.fetch(question, seen)
        except ChatflowError:
            return  # the cached value serves until its end; then a reader meets the error
