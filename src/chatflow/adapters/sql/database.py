"""The seam between the statements and where they run: SQLite's threads, or MySQL's connection pools."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs
from sqlalchemy import Connection, text

from chatflow.ports.lifecycle import Lifecycle

R = TypeVar("R")
Together = Callable[[Connection, Sequence[Any]], Sequence[R]]


@attrs.frozen
class PoolMetrics:
    """Connections of one pool now.

    Attributes:
        size: the most that may be open.
        active: in use, or being opened.
        total: open, in use or not.
        waiting: calls that want a connection and have none: the pool is empty, or they pause after a deadlock.
    """

    size: int
    active: int
    idle: int
    total: int
    waiting: int


class Database(Lifecycle, Protocol):
    """Runs synchronous functions that take a connection. `ping` tells whether reads have a chance.

    A function may be run again from the start (deadlock, failed group commit), so it must have no effect outside its
    transaction. Cancelling the caller leaves the transaction whole or rolled back, and the database usable.
    """

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``mysql``."""

    async def write(
        self, fn: Callable[..., R], *args: object, together: Together[R] | None = None, weight: int = 1
    ) -> R:
        """Run ``fn(conn, *args)`` in a write transaction and commit it.

        ``together(conn, [args, ...])`` may stand in for several waiting calls that give the same one; it returns what
        ``fn`` would have returned to each, or raises, and then each runs alone. ``weight``: messages in this call.

        Raises:
            StoreUnavailable: the outcome is unknown.
            StoreError: what ``fn`` met, translated; nothing was written.
        """

    async def write_unbounded(self, fn: Callable[..., R], *args: object) -> R:
        """``write`` without a deadline, for work on whole tables."""

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        """Run ``fn(conn, *args)`` on a reader; each of its statements sees whole transactions only.

        Raises:
            StoreOverloaded: too many reads are waiting.
            QueryTimeout: the deadline passed; the statement has been stopped.
            StoreUnavailable: the database did not answer.
        """

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        """Like ``read`` without a deadline, all statements of ``fn`` on one consistent snapshot."""

    def evict(self) -> None:
        """Stop trusting the connections that are open now; call it when the breaker trips.

        MySQL closes idle connections at once and the others when they are returned. SQLite has no server to lose: its
        writer opens a fresh connection after every failure anyway.
        """

    def pools(self) -> Mapping[str, PoolMetrics]:
        """Connection counts of the ``writer`` and the ``reader`` pool; each thread of SQLite has one."""

    async def close(self) -> None:
        """Finish running transactions, close every connection, stop every thread; idempotent."""


def select_one(conn: Connection) -> None:
    """The least that a database can be asked."""
    conn.execute(_ONE)


_ONE = text("SELECT 1")
