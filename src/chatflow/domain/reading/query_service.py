"""Answer every question of the read side, through the caches where there are some.

* The tags' version is read before the store is, and a value is kept under that version only: a commit in between
  makes it a value that nobody accepts.
* The shared cache never fails a question: down or slow, the store answers.
* ``min_seq``: a room page is never read from behind it; caches are passed over until the room has caught up.
* What is cached is the encoded answer, so a hit costs no decoding.
"""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.reading.answers import Answered, Everything
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.fetching import Fetcher
from chatflow.domain.reading.local_cache import NearCache
from chatflow.domain.reading.metrics import ReadingMetrics
from chatflow.domain.reading.queries import AnswerEncoder, Question, Questions
from chatflow.domain.reading.read_cache import ReadThrough
from chatflow.ports.cache import Cache, Leases
from chatflow.ports.clock import Clock
from chatflow.ports.store import Analytics, MessageReader, TimeWindow


@attrs.define(eq=False)
class QueryService:
    """The use case of the role ``api``; close it to stop refreshes that run on their own.

    Attributes:
        near: what this process keeps; ``None``: nothing, not even the newest messages of rooms.
        cache: what is shared with other processes; ``None``: nothing.
        leases: over the processes that share the cache; ``None``: each reads for itself.
        uncached_limit: reads at one time while the shared cache is out of reach; the next is ``StoreOverloaded``.
        clock: monotonic seconds.
        sleep: waits that many seconds.
        draw: a uniform random number in ``[0, 1)``, for early refresh.
        questions: what can be asked.
    """

    reader: MessageReader
    analytics: Analytics
    near: NearCache | None = attrs.field(kw_only=True, default=None)
    cache: Cache | None = attrs.field(kw_only=True)
    leases: Leases | None = attrs.field(kw_only=True, default=None)
    uncached_limit: int = attrs.field(kw_only=True, default=50)
    encoder: AnswerEncoder = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    draw: Callable[[], float] = attrs.field(kw_only=True)
    policy: CachePolicy = attrs.field(kw_only=True, factory=CachePolicy)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    questions: Questions = attrs.field(init=False)
    _tier: ReadThrough = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.questions = Questions(
            self.reader,
            self.analytics,
            self.near.tails if self.near is not None else None,
            policy=self.policy,
            encoder=self.encoder,
            clock=self.clock,
            sleep=self.sleep,
        )
        fetcher = Fetcher(
            self.near,
            self.cache,
            self.leases,
            policy=self.policy,
            clock=self.clock,
            sleep=self.sleep,
            uncached_limit=self.uncached_limit,
        )
        self._tier = ReadThrough(fetcher, draw=self.draw)

    @property
    def metrics(self) -> ReadingMetrics:
        """Counts since start."""
        return self._tier.metrics

    async def ask(self, question: Question) -> Answered:
        """The answer.

        Raises:
            StoreUnavailable, StoreOverloaded, QueryTimeout: the store has to answer and cannot.
            Behind: of a room page, the head stays below ``min_seq`` for half a second.
        """
        return await self._tier.ask(question)

    def recall(self, question: Question) -> Answered | None:
        """The answer if this process has it; waits for nothing."""
        return self._tier.recall(question)

    async def everything(self, *, room_id: str, user_id: int, limit: int, n: int, minutes: int) -> Everything:
        """Every question once, one after the other: one caller takes no more than one reader. Raises like ``ask``."""
        questions = self.questions
        return Everything(
            room=await self.ask(questions.room(room_id, limit=limit)),
            user=await self.ask(questions.user(user_id, limit=limit)),
            active=await self.ask(questions.active_users(TimeWindow())),
            user_rooms=await self.ask(questions.user_rooms(user_id)),
            throughput=await self.ask(questions.throughput(minutes)),
            top_users=await self.ask(questions.top_users(n)),
            top_rooms=await self.ask(questions.top_rooms(n)),
            patterns=await self.ask(questions.patterns()),
            total=await self.ask(questions.total()),
        )

    async def close(self) -> None:
        """Stop every refresh under way."""
        await self._tier.close()
