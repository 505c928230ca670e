"""Commands to one Redis: a deadline over all of each, no retries, a circuit, and what it has not been told yet.

* A command that fails is `CacheUnavailable`, whatever the driver makes of it. While the circuit is open, nothing is
  sent: a dead Redis costs no time per request. The probes are `RedisCommands`'s own, never a caller's.
* An invalidation that failed is *owed*: told again until it arrived.
* Whoever lost sight of Redis (the circuit tripped, a connection broke, the listener fell silent) cannot know what
  others failed to tell it meanwhile, or which server it will meet again: then *everything* is owed.
* While anything is owed, this process takes nothing from the cache and puts nothing into it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

import attrs
import msgspec
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chatflow.adapters.redis.client import SLOT, Client
from chatflow.adapters.redis.scripts import FORGET, Script
from chatflow.domain.resilience.circuit_breaker import BreakerState, CircuitBreaker
from chatflow.domain.resilience.tasks import end
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import CacheUnavailable, CircuitOpen
from chatflow.ports.messages import StoredMessage

EVERYTHING = f"{SLOT}:everything"
FORGOTTEN_AT_ONCE = 4_000
"""Tags; Lua unpacks no more than some 8,000. Who owes more owes everything."""
PROBE_DEADLINE_S = 1.0
"""For a probe that may have to find the server first; nobody waits for it."""
PAUSE_S = 0.1
"""Between two tries to tell what is owed while the circuit is closed."""

log = structlog.get_logger()


def channel_of(database: int) -> str:
    """Where the invalidations of a numbered database are published: its number does not part channels by itself."""
    return f"{SLOT}:invalidated@{database}"


def tag_key(tag: str) -> str:
    """Where the version of a tag is kept."""
    return f"{SLOT}:tag:{tag}"


@attrs.define(eq=False)
class PendingInvalidations:
    """What Redis must forget before it is trusted again."""

    tags: set[str] = attrs.field(factory=set, init=False)
    everything: bool = attrs.field(default=False, init=False)

    def __bool__(self) -> bool:
        return self.everything or bool(self.tags)

    @property
    def named(self) -> list[str] | None:
        """The tags; ``None``: everything."""
        return None if self.everything else list(self.tags)

    def add(self, tags: Collection[str] | None) -> None:
        """These too; everything when they become too many, or for ``None``: no tag needs to be named any more."""
        if tags is not None and not self.everything:
            self.tags.update(tags)
        if tags is None or len(self.tags) > FORGOTTEN_AT_ONCE:
            self.everything = True
            self.tags.clear()


@attrs.define(eq=False)
class RedisCommands:
    """See the module.

    Attributes:
        channel: where invalidations are published.
        timeout_s: of one command, with the wait for a connection and the connecting.
        concurrency: commands at a time; others wait within their deadline.
    """

    client: Client
    breaker: CircuitBreaker
    channel: str = attrs.field(kw_only=True)
    timeout_s: float = attrs.field(kw_only=True)
    concurrency: int = attrs.field(kw_only=True)
    _owed: PendingInvalidations = attrs.field(factory=PendingInvalidations, init=False)
    _telling: PendingInvalidations = attrs.field(factory=PendingInvalidations, init=False)
    _slots: asyncio.Semaphore = attrs.field(init=False)
    _counted_at: float = attrs.field(default=float("-inf"), init=False)
    _ailing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)

    @contextlib.asynccontextmanager
    async def recovering(self) -> AsyncIterator[None]:
        """Meanwhile, what is owed is told and an open circuit is probed."""
        with contextlib.suppress(CacheUnavailable):
            await self._probe()
        task = asyncio.ensure_future(self._mend_for_ever())
        try:
            yield
        finally:
            await end([task])
            if self._owed:
                with contextlib.suppress(CacheUnavailable):
                    await self._probe()

    async def run(self, script: Script, keys: Sequence[str], *args: str | bytes | int) -> Any:
        """What the script returned.

        Raises:
            CacheUnavailable: not sent, or with an unknown outcome.
        """
        return await self._guarded(lambda: self._evaluate(script, keys, args))

    async def command(self, *words: str | int) -> Any:
        """What one command returned; its first argument is a key. Raises like `run`."""
        return await self._guarded(lambda: self.client.execute_command(*words))

    async def forget(self, tags: Collection[str] | None, stored: Sequence[StoredMessage] = ()) -> None:
        """Invalidate now and tell who listens, or owe it; ``None``: everything.

        Raises:
            CacheUnavailable: owed.
        """
        try:
            parts = _parts(tags)
            for part in parts:
                keys, told = _forgetting(part, stored if len(parts) == 1 else ())
                await self.run(FORGET, keys, self.channel, told)
        except BaseException:
            self._owed.add(tags)
            self._ailing.set()
            raise

    @property
    def is_trusted(self) -> bool:
        """Whether what Redis says may be believed: nothing is owed to it."""
        return not (self._owed or self._telling)

    def check_trust(self) -> None:
        """Go on only while Redis is trusted.

        Raises:
            CacheUnavailable: something is owed to it.
        """
        if not self.is_trusted:
            raise CacheUnavailable("it has not been told yet what it must forget")

    def distrust(self) -> None:
        """Somebody found that Redis was out of reach; it may have missed anything."""
        self._owed.add(None)
        self._ailing.set()

    async def _guarded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.breaker.state is not BreakerState.CLOSED:
            raise CacheUnavailable("the circuit is open")
        sent = False
        try:
            async with asyncio.timeout(self.timeout_s), self._slots:
                sent = True
                answer = await call()
        except Exception as exc:  # what a server may say is open, and so is what the driver makes of it
            if sent:
                self._failed(exc)
            raise CacheUnavailable(_reason(exc)) from exc
        self.breaker.success()
        return answer

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        try:
            return await self.client.execute_command("EVALSHA", script.digest, len(keys), *keys, *args)
        except NoScriptError:  # a server that has just started
            return await self.client.execute_command("EVAL", script.source, len(keys), *keys, *args)

    def _failed(self, exc: Exception) -> None:
        """Many that are late together count once: it may have been this process that was not looking."""
        now = self.breaker.clock()
        tripped = False
        if now - self._counted_at >= self.timeout_s:
            self._counted_at = now
            tripped = self.breaker.failure()
        if tripped or _is_break(exc):
            if not self._owed.everything:
                log.warning("cache.unavailable", reason=_reason(exc))
            self.distrust()

    async def _mend_for_ever(self) -> None:
        while True:
            await self._ailing.wait()
            while self._owed or self.breaker.state is not BreakerState.CLOSED:
                await self._mend()
            self._ailing.clear()

    async def _mend(self) -> None:
        await asyncio.sleep(self.breaker.retry_in_s())
        was_everything = self._owed.everything
        try:
            self.breaker.allow()
        except CircuitOpen:  # the loop's clock was a little early
            return
        try:
            await self._probe()
        except CacheUnavailable:
            self.breaker.failure()
            await asyncio.sleep(PAUSE_S)
            return
        self.breaker.success()
        if was_everything:
            log.info("cache.available")

    async def _probe(self) -> None:
        """Tell what is owed, or ask anything; what comes to be owed meanwhile stays so."""
        telling, self._owed = self._owed, PendingInvalidations()
        self._telling = telling
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                if telling:
                    keys, told = _forgetting(telling.named)
                    await self._evaluate(FORGET, keys, [self.channel, told])
                else:
                    await self.client.execute_command("EXISTS", EVERYTHING)
        except BaseException as exc:  # see `_guarded`
            self._owed.add(telling.named)
            if isinstance(exc, Exception):
                raise CacheUnavailable(_reason(exc)) from exc
            raise
        finally:
            self._telling = PendingInvalidations()


def _parts(tags: Collection[str] | None) -> list[list[str] | None]:
    """What one script each forgets."""
    if tags is None:
        return [None]
    names = list(tags)
    return [names[start : start + FORGOTTEN_AT_ONCE] for start in range(0, len(names), FORGOTTEN_AT_ONCE)]


def _forgetting(tags: list[str] | None, stored: Sequence[StoredMessage] = ()) -> tuple[list[str], bytes]:
    """`FORGET`'s keys, and what listeners hear of a commit; ``null`` stands for any."""
    if tags is None:
        return [EVERYTHING], msgspec.json.encode(None)
    return list(map(tag_key, tags)), msgspec.json.encode(Commit(tuple(tags), tuple(stored)))


def _is_break(exc: Exception) -> bool:
    """The connection ended or none could be made; an answer that is late says less."""
    return isinstance(exc, RedisConnectionError | OSError) and not isinstance(exc, RedisTimeoutError | TimeoutError)


def _reason(exc: Exception) -> str:
    return "no answer in time" if isinstance(exc, RedisTimeoutError | TimeoutError) else repr(exc)
