"""The commit feed over Redis pub/sub: published by the script that invalidates, followed over a connection of its own.

A commit is handed on as soon as it is read. What a stuck process does not read, Redis buffers up to its
``client-output-buffer-limit`` for subscribers; then it hangs up, which the follower notices.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import structlog
from redis.asyncio.client import PubSub

from chatflow.adapters.redis.client import RedisClients
from chatflow.adapters.redis.commands import REDIS_ERRORS, RedisCommands
from chatflow.ports.commit_feed import Commit, CommitFeed, Follower

PING_S = 0.2
"""Of silence, after which the server is pinged."""
SILENT_PINGS = 2
"""Pings without an answer, after which the connection is given up."""
OPEN_DEADLINE_S = 1.0
PAUSE_S = 0.25
"""Between two tries to subscribe."""

log = structlog.get_logger()

_decoder: msgspec.json.Decoder[Commit | None] = msgspec.json.Decoder(Commit | None)


@attrs.define(eq=False)
class RedisCommitFeed:
    """See the port.

    A lost connection is also a reason not to trust the shared cache: the next server may be another one, or a restarted
    one, or have missed invalidations. So every process that reads the cache also follows the feed.
    """

    clients: RedisClients
    commands: RedisCommands
    _is_subscribed: bool = attrs.field(default=False, init=False)
    _unanswered: int = attrs.field(default=0, init=False)

    async def publish(self, commit: Commit) -> None:
        """See the port."""
        await self.commands.invalidate(commit.tags, commit.stored)

    def is_current(self) -> bool:
        """See the port."""
        return self._is_subscribed and self._unanswered < SILENT_PINGS

    async def follow(self, follower: Follower) -> None:
        """See the port."""
        while True:
            try:
                await self._follow_one(follower)
            except REDIS_ERRORS as exc:
                self._note_loss(exc)
            except Exception as exc:  # a bug must not end the following, and must be loud
                log.exception("cache.listener_failed")
                self._note_loss(exc)
            finally:
                self._is_subscribed = False
            await asyncio.sleep(PAUSE_S)

    def _note_loss(self, reason: Exception) -> None:
        if self._is_subscribed:
            log.warning("cache.listener_lost", reason=repr(reason))
            self.commands.distrust()

    async def _follow_one(self, follower: Follower) -> None:
        """One connection, from its start to its end."""
        async with asyncio.timeout(OPEN_DEADLINE_S):
            client, subscription = await self.clients.listener()
        async with client, subscription:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                await subscription.subscribe(self.commands.channel)
                while not _is(await subscription.get_message(timeout=OPEN_DEADLINE_S), "subscribe"):
                    pass
            follower(None)
            self._unanswered = 0
            self._is_subscribed = True
            while True:
                await self._hear_one(subscription, follower)

    async def _hear_one(self, subscription: PubSub, follower: Follower) -> None:
        message = await subscription.get_message(timeout=PING_S)
        if message is None:
            self._unanswered += 1
            if self._unanswered > SILENT_PINGS:
                raise TimeoutError("the server has fallen silent")
            await subscription.ping()
            return
        self._unanswered = 0
        if _is(message, "message"):
            follower(_commit(message["data"]))


def _is(message: Any, kind: str) -> bool:
    return message is not None and message["type"] == kind


def _commit(data: bytes) -> Commit | None:
    """The commit; ``None`` for one that another version of this program wrote and this one cannot read."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        return None


if TYPE_CHECKING:
    _: type[CommitFeed] = RedisCommitFeed
