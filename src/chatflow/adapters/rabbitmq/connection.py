"""A connection that reconnects by itself, to one of several nodes.

It is up only once everything on it has been prepared. While it is down, callers fail at once.

A stopped server closes no socket, so silence counts as an outage. Every half heartbeat the server checks whether it has
sent anything since its last check, and sends a heartbeat if not; after other traffic a healthy server is silent for up
to a whole heartbeat. A little later publishes are refused; after half a heartbeat more the connection is closed.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import attrs
import structlog
from aio_pika.connection import make_url

from chatflow.adapters.rabbitmq.address import parse
from chatflow.adapters.rabbitmq.compat import DirectConnection
from chatflow.adapters.rabbitmq.driver_connection import DriverConnection
from chatflow.adapters.rabbitmq.errors import starting
from chatflow.domain.resilience.backoff import Backoff
from chatflow.domain.resilience.tasks import end
from chatflow.ports.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable

RECONNECT = Backoff(first_s=0.1, last_s=1.0)
CLOSE_GRACE_S = 2.0
LOG_INTERVAL_S = 5.0
OVERDUE = 1.125
LOST = 1.5
"""Heartbeats of silence."""

log = structlog.get_logger()


async def _nothing(_: DriverConnection) -> None:
    pass


@attrs.define(eq=False)
class ReconnectingConnection:
    """Keeps one connection open from `start` to `close`.

    Args:
        name: what the connection is for; the server's management shows it.
        urls: of the nodes, tried in turn.
        prepare: called with each new connection before it counts as up.
        on_up: called when the server accepts publishes again: reconnected, unblocked, or heard after a silence.
        on_outage: called when the server blocks the connection or falls silent; unconfirmed publishes may be stuck.
        heartbeat_s: the heartbeat timeout that both sides agree on.
    """

    name: str
    urls: tuple[str, ...]
    prepare: Callable[[DriverConnection], Awaitable[None]] = attrs.field(kw_only=True, default=_nothing)
    on_up: Callable[[], None] = attrs.field(kw_only=True, default=lambda: None)
    on_outage: Callable[[], None] = attrs.field(kw_only=True, default=lambda: None)
    heartbeat_s: int = attrs.field(kw_only=True, default=4)
    connect_timeout_s: float = attrs.field(kw_only=True, default=5.0)
    connection_class: type[DriverConnection] = attrs.field(kw_only=True, default=DirectConnection)
    _connection: DriverConnection | None = attrs.field(default=None, init=False)
    _keeper: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _turn: int = attrs.field(default=0, init=False)
    _was_silent: bool = attrs.field(default=False, init=False)
    """Publishes may have been refused because of it, and `on_up` has not been called since."""

    @property
    def is_up(self) -> bool:
        """Connected, prepared, and ready for publishing."""
        return self._outage() is None

    async def start(self) -> None:
        """Connect for the first time, trying each node once.

        Raises:
            BrokerUnavailable: no node answers; try again later.
            BrokerMisconfigured: a node refuses us; do not start.
        """
        self._connection = await self._connect()
        self._keeper = asyncio.create_task(self._keep(self._connection), name=f"broker-{self.name}")

    async def close(self) -> None:
        """Disconnect for good; idempotent."""
        if self._keeper is not None:
            await end([self._keeper])
            self._keeper = None
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.shut(CLOSE_GRACE_S)

    def connection(self) -> DriverConnection:
        """The open connection.

        Raises:
            BrokerUnavailable: there is none.
        """
        if self._connection is None or not self._connection.is_open:
            raise BrokerUnavailable("not connected to the broker")
        return self._connection

    def ready(self) -> DriverConnection:
        """The connection, ready for publishing.

        Raises:
            BrokerUnavailable: there is none, or the server has blocked it or fallen silent.
        """
        if (outage := self._outage()) is not None:
            raise BrokerUnavailable(outage)
        return self.connection()

    def _outage(self) -> str | None:
        connection = self._connection
        if connection is None or not connection.is_open:
            return "not connected to the broker"
        if connection.is_blocked:
            return "the broker is out of memory or disk and accepts no publishes"
        if self._is_silent(connection, OVERDUE):
            self._note_silence(connection)
            return "the broker is silent"
        return None

    def _is_silent(self, connection: DriverConnection, heartbeats: float) -> bool:
        return connection.silent_s() > heartbeats * self.heartbeat_s

    async def _keep(self, connection: DriverConnection) -> None:
        while True:
            reason = await self._until_lost(connection)
            self._connection = None
            log.warning("broker.disconnected", connection=self.name, reason=reason)
            connection.abort()
            await connection.shut(CLOSE_GRACE_S)
            connection = self._connection = await self._reconnect()
            self._was_silent = False
            log.info("broker.connected", connection=self.name)
            self.on_up()

    async def _until_lost(self, connection: DriverConnection) -> str:
        """Wait until the connection ends; return why."""
        lost, tick_s = connection.lost(), self.heartbeat_s / 4
        try:
            while True:
                asked = time.monotonic()
                await asyncio.wait([lost], timeout=tick_s)
                if lost.done():
                    return lost.result()
                if time.monotonic() - asked > 2 * tick_s:
                    continue  # this process was stopped, and what the server sent is still unread
                if self._is_silent(connection, LOST):
                    return f"silent for {connection.silent_s():.1f} s"
                if self._is_silent(connection, OVERDUE):
                    self._note_silence(connection)
                    self.on_outage()
                elif self._was_silent:
                    self._was_silent = False
                    log.info("broker.heard_again", connection=self.name)
                    self.on_up()
        finally:
            lost.cancel()

    def _note_silence(self, connection: DriverConnection) -> None:
        if not self._was_silent:
            log.warning("broker.silent", connection=self.name, seconds=round(connection.silent_s(), 1))
        self._was_silent = True

    async def _reconnect(self) -> DriverConnection:
        failures, logged_at = 1, float("-inf")
        while True:
            await asyncio.sleep(RECONNECT.jittered_s(failures, random.random()))
            failures += 1
            try:
                return await self._connect()
            except BrokerError as exc:
                if time.monotonic() - logged_at >= LOG_INTERVAL_S:
                    logged_at = time.monotonic()
                    log.warning("broker.unreachable", connection=self.name, error=str(exc))
            except Exception:  # a bug must not end the reconnecting, and must be loud
                log.exception("broker.connect_failed", connection=self.name)

    async def _connect(self) -> DriverConnection:
        failure = BrokerUnavailable("no broker was named")
        for _ in self.urls:
            try:
                return await self._connect_to(self.urls[self._turn % len(self.urls)])
            except BrokerUnavailable as exc:
                failure = exc
                self._turn += 1
        raise failure

    async def _connect_to(self, url: str) -> DriverConnection:
        address, context = parse(url)
        connection = self.connection_class(
            make_url(address, heartbeat=self.heartbeat_s),
            ssl_context=context,
            on_blocked=self._blocked,
            client_properties={"connection_name": f"chatflow {self.name}"},
        )
        try:
            with starting(f"connect to {connection.url.host}:{connection.url.port}"):
                async with asyncio.timeout(self.connect_timeout_s):
                    await connection.connect()
                    await self.prepare(connection)
        except BaseException as exc:
            if not isinstance(exc, BrokerMisconfigured):
                connection.abort()
            await connection.shut(CLOSE_GRACE_S)
            raise
        return connection

    def _blocked(self, is_blocked: bool) -> None:
        log.warning("broker.blocked" if is_blocked else "broker.unblocked", connection=self.name)
        if is_blocked:
            self.on_outage()
        else:
            self.on_up()
