"""What any process invalidates, heard over a connection of its own.

Nothing waits here: an invalidation is handed on as it is read. What a stuck process does not read, Redis keeps up to
its ``client-output-buffer-limit`` for subscribers; then it hangs up, which is heard.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import structlog
from redis.asyncio.client import PubSub

from chatflow.adapters.redis.client import RedisClients
from chatflow.adapters.redis.commands import RedisCommands
from chatflow.ports.cache import Invalidation, Invalidations

PING_S = 0.2
"""Of silence, after which the server is asked whether it is there."""
SILENT_PINGS = 2
"""Questions without an answer, after which the connection is given up."""
OPEN_DEADLINE_S = 1.0
PAUSE_S = 0.25
"""Between two tries to subscribe."""

Heard = Callable[[Invalidation | None], None]

log = structlog.get_logger()

_decoder: msgspec.json.Decoder[Invalidation | None] = msgspec.json.Decoder(Invalidation | None)


@attrs.define(eq=False)
class RedisInvalidations:
    """See the port.

    A lost connection is also a reason not to trust the shared cache: the server that is met next may be another one, or
    a restarted one, or have missed what others had to tell it. So whoever reads the cache also follows.
    """

    clients: RedisClients
    commands: RedisCommands
    _is_subscribed: bool = attrs.field(default=False, init=False)
    _unanswered: int = attrs.field(default=0, init=False)

    def is_current(self) -> bool:
        """See the port."""
        return self._is_subscribed and self._unanswered < SILENT_PINGS

    async def follow(self, heard: Heard) -> None:
        """See the port."""
        while True:
            try:
                await self._follow_one(heard)
            except Exception as exc:  # noqa: BLE001 - what the driver makes of a lost connection is open
                if self._is_subscribed:
                    log.warning("cache.listener_lost", reason=repr(exc))
                    self.commands.distrust()
            finally:
                self._is_subscribed = False
            await asyncio.sleep(PAUSE_S)

    async def _follow_one(self, heard: Heard) -> None:
        """One connection, from its start to its end."""
        async with asyncio.timeout(OPEN_DEADLINE_S):
            client, subscription = await self.clients.listener()
        async with client, subscription:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                await subscription.subscribe(self.commands.channel)
                while not _is(await subscription.get_message(timeout=OPEN_DEADLINE_S), "subscribe"):
                    pass
            heard(None)
            self._unanswered = 0
            self._is_subscribed = True
            while True:
                await self._hear_one(subscription, heard)

    async def _hear_one(self, subscription: PubSub, heard: Heard) -> None:
        message = await subscription.get_message(timeout=PING_S)
        if message is None:
            self._unanswered += 1
            if self._unanswered > SILENT_PINGS:
                raise TimeoutError("the server has fallen silent")
            await subscription.ping()
            return
        self._unanswered = 0
        if _is(message, "message"):
            heard(_invalidation(message["data"]))


def _is(message: Any, kind: str) -> bool:
    return message is not None and message["type"] == kind


def _invalidation(data: bytes) -> Invalidation | None:
    """What was said; everything where another version of this program says it in a way that is not understood."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        return None


if TYPE_CHECKING:
    _: type[Invalidations] = RedisInvalidations
