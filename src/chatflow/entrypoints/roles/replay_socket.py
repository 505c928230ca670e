"""Beside an embedded broker: the socket through which ``chatflow dlq replay`` publishes into this process.

A replay that wrote the database behind the back of a running process would leave its caches and listeners behind.
"""

import attrs
import structlog

from chatflow.adapters.memory.broker_socket import BrokerSocketServer
from chatflow.entrypoints.roles.process import Lifetime
from chatflow.entrypoints.settings import Common
from chatflow.ports.broker import Broker

log = structlog.get_logger()


@attrs.define(eq=False)
class ReplaySocketRole:
    """Publishes dead letters for a command in another process."""

    common: Common
    broker: Broker
    _server: BrokerSocketServer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._server = BrokerSocketServer(self.broker, self.common.partitions, self.common.broker_socket)

    async def start(self, lifetime: Lifetime) -> None:
        """Listen, or do without and say so."""
        try:
            await self._server.start()
        except OSError as exc:
            log.warning("replay_socket.unavailable", path=str(self.common.broker_socket), error=str(exc))

    async def drain(self) -> None:
        """Take no more replays."""
        await self._server.close()

    async def close(self) -> None:
        """Remove the socket."""
        await self._server.close()
