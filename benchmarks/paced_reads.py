"""Reads on a schedule over several apis (open loop), each noted with what became of it."""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Sequence

import attrs

from benchmarks.http import HttpAnswer, HttpConnection, connect
from tests.harness.waiting import eventually

CONNECTIONS = 100
"""To each api; a read that finds none idle waits for one, and its time counts."""
ANSWERS_WITHIN_S = 30.0


@attrs.frozen
class Read:
    """One that was answered, or whose connection was lost (``status`` 0).

    Attributes:
        at: when it should have been sent, in monotonic seconds.
        took_s: from then to the end of the answer.
        api: which one, from 0.
    """

    at: float
    took_s: float
    api: int
    tier: str
    status: int
    error: str


@attrs.define(eq=False)
class _Api:
    """One api's connections: the longest idle first, so that none is idle for long."""

    number: int
    port: int
    idle: "deque[_Line]" = attrs.field(factory=deque)
    waiting: deque[tuple[float, bytes]] = attrs.field(factory=deque)


@attrs.define(eq=False)
class _Line:
    """One connection, and when the read on it was due."""

    api: _Api
    reads: list[Read]
    http: HttpConnection = attrs.field(init=False)
    due: float | None = attrs.field(default=None, init=False)

    async def open(self) -> None:
        self.http = await connect(self.api.port, HttpConnection(self._on_answer, self._on_lost))
        self.api.idle.append(self)

    def ask(self, due: float, request: bytes) -> None:
        self.due = due
        self.http.send(request)

    def _on_answer(self, answer: HttpAnswer) -> None:
        self._note(answer.tier, answer.status, answer.error)
        if self.api.waiting:
            self.ask(*self.api.waiting.popleft())
        else:
            self.api.idle.append(self)

    def _on_lost(self) -> None:
        if self.due is not None:
            self._note("", 0, "lost connection")
        elif self in self.api.idle:
            self.api.idle.remove(self)

    def _note(self, tier: str, status: int, error: str) -> None:
        if self.due is None:
            raise RuntimeError("an answer to nothing")
        self.reads.append(Read(self.due, time.monotonic() - self.due, self.api.number, tier, status, error))
        self.due = None


@attrs.define(eq=False)
class PacedReads:
    """``rate`` a second, to the apis at these ports in turn, each drawn from ``requests``; the same in every run."""

    ports: Sequence[int]
    requests: Sequence[bytes]
    rate: int
    reads: list[Read] = attrs.field(factory=list, init=False)
    _apis: list[_Api] = attrs.field(factory=list, init=False)
    _lines: list[_Line] = attrs.field(factory=list, init=False)
    _last_due: float = attrs.field(default=0.0, init=False)
    _asking: asyncio.Task[None] = attrs.field(init=False)

    async def start(self) -> None:
        """Connect, and start reading."""
        self._apis = [_Api(number, port) for number, port in enumerate(self.ports)]
        self._lines = [_Line(api, self.reads) for api in self._apis for _ in range(CONNECTIONS)]
        for line in self._lines:
            await line.open()
        self._asking = asyncio.create_task(self._ask())

    async def since(self, begin: float) -> list[Read]:
        """Every read that was due from ``begin`` until now, once all of them have been answered.

        Raises:
            TimeoutError: some were not.
        """
        end = time.monotonic()
        await eventually(
            lambda: self._last_due >= end and not self._is_open(end), "every answer", patience_s=ANSWERS_WITHIN_S
        )
        return [read for read in self.reads if begin <= read.at < end]

    async def stop(self) -> None:
        """Send no more reads, and wait for every answer.

        Raises:
            TimeoutError: some did not come.
        """
        self._asking.cancel()
        await asyncio.wait([self._asking])
        await eventually(lambda: not self._is_open(time.monotonic()), "every answer", patience_s=ANSWERS_WITHIN_S)
        self.close()

    def close(self) -> None:
        """Close every connection."""
        for line in self._lines:
            line.http.transport.abort()

    def _is_open(self, end: float) -> bool:
        """Whether a read that was due before has no answer yet."""
        dues = [line.due for line in self._lines if line.due is not None]
        return any(due < end for due in dues) or any(due < end for api in self._apis for due, _ in api.waiting)

    async def _ask(self) -> None:
        draw, begin = random.Random(0), time.monotonic()
        for number in itertools.count():
            due = begin + number / self.rate
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            api, request = self._apis[number % len(self._apis)], draw.choice(self.requests)
            self._last_due = due
            if api.idle:
                api.idle.popleft().ask(due, request)
            else:
                api.waiting.append((due, request))
