"""Connection pools for MySQL and MariaDB: a deadline for opening, free checks of connections, and eviction on demand.

A connection whose server has hung up is found when it is taken from the pool, by a look at its transport, without a
round trip. A silent one (a stopped server, a half-open link) looks like any other: a call that waits on it runs into
its deadline, and evicts the other connections too, since they are most likely no better.
"""

import asyncio
import time
from typing import Any, cast

import asyncmy
import attrs
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from chatflow.adapters.sql.compat import PACKETS, PacketDriver
from chatflow.adapters.sql.database import PoolMetrics
from chatflow.adapters.sql.errors import MYSQL_NO_SAVEPOINT
from chatflow.adapters.sql.mysql.multirow import PACKET_KEY
from chatflow.adapters.sql.mysql.proven import DRIVER, PACKETS_KEY

CONNECT_DEADLINE_S = 5.0
"""For TCP, greeting, TLS, authentication and the session's settings together."""
RECYCLE_S = 3600
STATEMENTS = 64
"""Prepared statements kept per connection."""
MOVED_ON = frozenset({1053, 1290, 1792, 1836, 3032})
"""Shutting down, or read-only: a new connection may reach the server that has taken over."""
OPENED_KEY = "opened_at"


@attrs.define(eq=False)
class MysqlPool:
    """An engine over a fixed number of connections, all of which can be evicted.

    Args:
        connect_args: of the driver.
        session: the first statement of each connection.
        resets: roll back when a connection comes back; needless where every user ends its transaction.
        proves: its commits fail unless they end the transaction that was begun.
        driver: how packets are sent, and lost connections found.
    """

    url: Any
    size: int
    isolation: Any
    connect_args: dict[str, Any]
    session: str
    resets: bool = attrs.field(default=False, kw_only=True)
    proves: bool = attrs.field(default=False, kw_only=True)
    driver: PacketDriver = attrs.field(default=PACKETS, kw_only=True)
    engine: AsyncEngine = attrs.field(init=False)
    _idle: set[ConnectionPoolEntry] = attrs.field(init=False, factory=set)
    _evicted_at: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self.engine = create_async_engine(
            self.url.set(drivername=f"mysql+{DRIVER}") if self.proves else self.url,
            async_creator=self._connect,
            isolation_level=self.isolation,
            pool_size=self.size,
            max_overflow=0,
            pool_recycle=RECYCLE_S,
            pool_pre_ping=self.driver.tells_broken is None,
            pool_reset_on_return="rollback" if self.resets else None,
            hide_parameters=True,
        )
        pool, engine = self.engine.sync_engine.pool, self.engine.sync_engine
        event.listen(pool, "connect", self._opened)
        event.listen(pool, "checkout", self._taken)
        event.listen(pool, "checkin", self._returned)
        event.listen(engine, "handle_error", _failed)

    def evict(self) -> None:
        """Close idle connections now, and the others when they are returned; the next call gets a new one."""
        self._evicted_at = time.monotonic()
        while self._idle:
            self._idle.pop().invalidate()

    def metrics(self, calls: int) -> PoolMetrics:
        """Counts of connections, given the number of calls under way."""
        active = cast("QueuePool", self.engine.sync_engine.pool).checkedout()
        idle = len(self._idle)
        return PoolMetrics(self.size, active, idle, active + idle, max(0, calls - active))

    async def dispose(self) -> None:
        """Close idle connections; none may be in use."""
        self._idle.clear()
        await self.engine.dispose()

    async def _connect(self) -> Any:
        _, named = self.engine.dialect.create_connect_args(self.url)
        ours = {**self.connect_args, "init_command": self.session, "stmt_cache_size": STATEMENTS}
        return await open_connection(**{**named, **ours})

    def _opened(self, driver: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[OPENED_KEY] = time.monotonic()
        entry.info[PACKETS_KEY] = self.driver
        cursor = driver.cursor()
        cursor.execute("SELECT @@max_allowed_packet")
        entry.info[PACKET_KEY] = int(cursor.fetchone()[0])
        cursor.close()

    def _taken(self, driver: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        self._idle.discard(entry)
        if self.driver.tells_broken is not None and self.driver.tells_broken(driver.driver_connection):
            raise DisconnectionError("the server has hung up")

    def _returned(self, driver: Any, entry: ConnectionPoolEntry) -> None:
        if driver is None:
            return
        if entry.info[OPENED_KEY] <= self._evicted_at:
            entry.invalidate()
        else:
            self._idle.add(entry)


async def open_connection(**arguments: Any) -> Any:
    """Connect within ``CONNECT_DEADLINE_S``; the driver's own limit ends with the TCP handshake.

    Raises:
        TimeoutError: no usable connection within ``CONNECT_DEADLINE_S``.
        ConnectionResetError: it was lost before the driver had looked at it.
    """
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            return await asyncmy.connect(**arguments)
    except RuntimeError as exc:  # the driver asks a transport for its socket, and it has none any more
        raise ConnectionResetError(str(exc)) from exc


def _failed(context: Any) -> None:
    """Replace all connections to a server that has stopped taking writes.

    A connection on which an error was hidden is replaced alone: its driver also remembers not to prepare the statement.
    """
    code, *_ = getattr(context.original_exception, "args", ()) or (None,)
    if code in MOVED_ON:
        context.is_disconnect = True
    elif code == MYSQL_NO_SAVEPOINT:
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
