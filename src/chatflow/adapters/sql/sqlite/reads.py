"""Reads in threads that the event loop can stop."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import attrs
from sqlalchemy import Connection

from chatflow.ports.errors import QueryTimeout

STOP_INTERVAL_S = 0.05
"""An abandoned read is interrupted this often until it has ended: an interrupt between two statements has no effect."""


@attrs.define(eq=False)
class InterruptibleRead:
    """A read whose statement can be stopped from the event loop's thread."""

    abandoned: bool = False
    _driver: Any = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @contextmanager
    def running_on(self, conn: Connection) -> Iterator[None]:
        with self._lock:
            if self.abandoned:
                raise QueryTimeout("the deadline passed before a reader was free")
            self._driver = conn.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._driver = None

    def stop(self) -> None:
        """Interrupt the statement under way; the lock keeps the interrupt from the connection's next user."""
        with self._lock:
            self.abandoned = True
            if self._driver is not None:
                self._driver.interrupt()


def stop_until_done(job: InterruptibleRead, future: Future[Any]) -> None:
    """Make sure that nobody computes an answer that nobody waits for."""
    if not future.done():
        job.stop()
        asyncio.get_running_loop().call_later(STOP_INTERVAL_S, stop_until_done, job, future)
