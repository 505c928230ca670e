"""Commands to one Redis: one deadline for each, no retries, a circuit breaker, and the invalidations still pending.

* A command that fails raises `CacheUnavailable`. While the circuit is open nothing is sent, so a dead Redis costs a
  request no time. Only `RedisCommands` itself probes, never a caller.
* An invalidation that failed stays *pending* and is repeated until it succeeds.
* A process that lost sight of Redis - the circuit opened, a connection broke, the commit feed fell silent - cannot know
  which invalidations of others failed meanwhile, or which server it meets next: then *everything* is pending.
* While anything is pending, this process reads nothing from the cache and stores nothing in it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import attrs
import msgspec
import structlog
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chatflow.adapters.redis.client import SLOT, Client
from chatflow.adapters.redis.scripts import INVALIDATE
from chatflow.domain.resilience.circuit_breaker import BreakerState, CircuitBreaker
from chatflow.domain.resilience.tasks import end
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import CacheUnavailable, CircuitOpen
from chatflow.ports.messages import StoredMessage
from chatflow.ports.tls import certificate_refusal

EVERYTHING = f"{SLOT}:everything"
TAGS_PER_SCRIPT = 4_000
"""Lua unpacks some 8,000 keys at most. With more tags pending, everything is."""
PROBE_DEADLINE_S = 1.0
"""For a probe, which may have to find the server first; nobody waits for it."""
PROBE_PAUSE_S = 1.0
"""Longest time between two probes of an open circuit: they disturb nobody, so none waits for the reset."""
PAUSE_S = 0.1
"""Between two tries to send what is pending while the circuit is closed."""
REDIS_ERRORS = (RedisError, RedisClusterException, OSError, EOFError, TimeoutError, RuntimeError)
"""What redis-py raises when Redis fails or refuses; `RuntimeError` is uvloop's for a socket that was closed meanwhile.
Anything else is a bug and stays what it is."""

log = structlog.get_logger()


def channel_of(database: int) -> str:
    """The pub/sub channel of a numbered database; channels are not divided by database, so its name says which."""
    return f"{SLOT}:invalidated@{database}"


def tag_key(tag: str) -> str:
    """The key of a tag's version."""
    return f"{SLOT}:tag:{tag}"


@attrs.define(eq=False)
class PendingInvalidations:
    """The tags that Redis has yet to invalidate before it is trusted again."""

    tags: set[str] = attrs.field(factory=set, init=False)
    everything: bool = attrs.field(default=False, init=False)

    def __bool__(self) -> bool:
        return self.everything or bool(self.tags)

    @property
    def named(self) -> list[str] | None:
        """The tags; ``None``: everything."""
        return None if self.everything else list(self.tags)

    def add(self, tags: Collection[str] | None) -> None:
        """Add tags; for ``None``, or when they become too many, everything."""
        if tags is not None and not self.everything:
            self.tags.update(tags)
        if tags is None or len(self.tags) > TAGS_PER_SCRIPT:
            self.everything = True
            self.tags.clear()


@attrs.define(eq=False)
class RedisCommands:
    """See the module.

    Attributes:
        channel: where commits are published.
        timeout_s: for one command, including the wait for a connection and connecting.
        concurrency: commands at a time; others wait within their deadline.
    """

    client: Client
    breaker: CircuitBreaker
    channel: str = attrs.field(kw_only=True)
    timeout_s: float = attrs.field(kw_only=True)
    concurrency: int = attrs.field(kw_only=True)
    _scripts: dict[str, AsyncScript] = attrs.field(factory=dict, init=False)
    _pending: PendingInvalidations = attrs.field(factory=PendingInvalidations, init=False)
    _sending: PendingInvalidations = attrs.field(factory=PendingInvalidations, init=False)
    _slots: asyncio.Semaphore = attrs.field(init=False)
    _counted_at: float = attrs.field(default=float("-inf"), init=False)
    _needs_recovery: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _recovery: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)

    async def open(self) -> None:
        """Probe once; from then until `close`, send what is pending and probe an open circuit."""
        with contextlib.suppress(CacheUnavailable):
            await self._probe()
        self._recovery = asyncio.ensure_future(self._recover_for_ever())

    async def close(self) -> None:
        """Stop that, and send what is pending once more; idempotent."""
        if self._recovery is None:
            return
        recovery, self._recovery = self._recovery, None
        await end([recovery])
        if self._pending:
            with contextlib.suppress(CacheUnavailable):
                await self._probe()

    async def run(self, script: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        """Run one of `scripts` and return its result.

        Raises:
            CacheUnavailable: not sent, or the outcome is unknown.
        """
        return await self._guarded(lambda: self._run(script, keys, args))

    async def command(self, *words: str | int) -> Any:
        """Run one command, whose first argument is a key, and return its result. Raises like `run`."""
        return await self._guarded(lambda: self.client.execute_command(*words))

    async def invalidate(self, tags: Collection[str] | None, stored: Sequence[StoredMessage] = ()) -> None:
        """Invalidate tags, ``None`` for everything, and publish the commit; what fails stays pending.

        Raises:
            CacheUnavailable: it is pending.
        """
        try:
            parts = _parts(tags)
            for part in parts:
                keys, commit = _invalidation(part, stored if len(parts) == 1 else ())
                await self.run(INVALIDATE, keys, self.channel, commit)
        except BaseException:
            self._pending.add(tags)
            self._needs_recovery.set()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it recovers from outages: between `open` and `close`."""
        return self._recovery is not None

    @property
    def is_trusted(self) -> bool:
        """Whether cached values may be used: no invalidation is pending."""
        return not (self._pending or self._sending)

    def check_trust(self) -> None:
        """Raise unless Redis is trusted.

        Raises:
            CacheUnavailable: an invalidation is pending.
        """
        if not self.is_trusted:
            raise CacheUnavailable("an invalidation is pending")

    def distrust(self) -> None:
        """Make everything pending: Redis was out of reach and may have missed anything."""
        self._pending.add(None)
        self._needs_recovery.set()

    async def _guarded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.breaker.state is not BreakerState.CLOSED:
            raise CacheUnavailable("the circuit is open")
        sent = False
        try:
            async with asyncio.timeout(self.timeout_s), self._slots:
                sent = True
                answer = await call()
        except REDIS_ERRORS as exc:
            if sent:
                self._failed(exc)
            raise CacheUnavailable(_reason(exc)) from exc
        self.breaker.success()
        return answer

    async def _run(self, source: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        script = self._scripts.get(source)
        if script is None:
            script = self._scripts[source] = self.client.register_script(source)
        try:
            return await self.client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:  # a server that has just started; the script object loads it, but calls cost 10 us more
            return await script(keys, args)

    def _failed(self, exc: Exception) -> None:
        """Count a failure, but timeouts that come together once: this process may have been what did not run."""
        now = self.breaker.clock()
        tripped = False
        if now - self._counted_at >= self.timeout_s:
            self._counted_at = now
            tripped = self.breaker.failure()
        if tripped or _is_break(exc):
            if not self._pending.everything:
                log.warning("cache.unavailable", reason=_reason(exc))
            self.distrust()

    async def _recover_for_ever(self) -> None:
        while True:
            await self._needs_recovery.wait()
            while self._pending or self.breaker.state is not BreakerState.CLOSED:
                try:
                    await self._recover()
                except Exception:  # a bug must not end the recovery, and must be loud
                    log.exception("cache.recovery_failed")
                    await asyncio.sleep(PAUSE_S)
            self._needs_recovery.clear()

    async def _recover(self) -> None:
        await asyncio.sleep(min(self.breaker.retry_in_s(), PROBE_PAUSE_S))
        self.breaker.probe_now()
        was_everything = self._pending.everything
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
        except Exception:
            self.breaker.failure()
            raise
        self.breaker.success()
        if was_everything:
            log.info("cache.available")

    async def _probe(self) -> None:
        """Send what is pending, or any command; invalidations that fail meanwhile stay pending."""
        sending, self._pending = self._pending, PendingInvalidations()
        self._sending = sending
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                if sending:
                    keys, commit = _invalidation(sending.named)
                    await self._run(INVALIDATE, keys, [self.channel, commit])
                else:
                    await self.client.execute_command("EXISTS", EVERYTHING)
        except BaseException as exc:
            self._pending.add(sending.named)
            if isinstance(exc, REDIS_ERRORS):
                raise CacheUnavailable(_reason(exc)) from exc
            raise
        finally:
            self._sending = PendingInvalidations()


def _parts(tags: Collection[str] | None) -> list[list[str] | None]:
    """The tags of each script."""
    if tags is None:
        return [None]
    names = list(tags)
    return [names[start : start + TAGS_PER_SCRIPT] for start in range(0, len(names), TAGS_PER_SCRIPT)]


def _invalidation(tags: list[str] | None, stored: Sequence[StoredMessage] = ()) -> tuple[list[str], bytes]:
    """The keys of `INVALIDATE`, and the commit it publishes; ``null`` stands for any."""
    if tags is None:
        return [EVERYTHING], msgspec.json.encode(None)
    return list(map(tag_key, tags)), msgspec.json.encode(Commit(tuple(tags), tuple(stored)))


def _is_break(exc: Exception) -> bool:
    """Whether the connection ended or none could be made; a late answer says less."""
    return isinstance(exc, RedisConnectionError | OSError) and not isinstance(exc, RedisTimeoutError | TimeoutError)


def _reason(exc: Exception) -> str:
    if isinstance(exc, RedisTimeoutError | TimeoutError):
        return "no answer in time"
    return certificate_refusal(exc) or repr(exc)
