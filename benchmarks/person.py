"""A user who reads and writes: seven reads, then three messages, on one HTTP and one WebSocket connection.

Closed on both sides: a read follows the answer to the last one, and messages are sent when those before them are
acknowledged. So 70 % of all requests are reads, whichever side is the slower.
"""

import time
from collections import Counter
from collections.abc import Sequence

import attrs
from hdrh.histogram import HdrHistogram

from benchmarks.client import LoadConnection, Occurrences
from benchmarks.client import connect as connect_socket
from benchmarks.http import HttpAnswer, HttpConnection
from benchmarks.http import connect as connect_http
from benchmarks.measure import hello

READS, WRITES = 7, 3
LONGEST_US = 60_000_000


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, LONGEST_US, 3)


@attrs.define(eq=False)
class Tally:
    """What all users did since it was created; both histograms are in microseconds."""

    reads: HdrHistogram = attrs.field(factory=_histogram)
    acks: HdrHistogram = attrs.field(factory=_histogram)
    tiers: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)

    @property
    def requests(self) -> int:
        return int(self.reads.total_count + self.acks.total_count)


@attrs.define(eq=False)
class Person:
    """``requests`` are GETs asked for in turn from ``first`` on; ``frames`` are the messages of one round."""

    number: int
    requests: Sequence[bytes]
    frames: bytes
    tally: Tally
    stopping: bool = attrs.field(default=False, init=False)
    reading: bool = attrs.field(default=False, init=False)
    unacked: int = attrs.field(default=0, init=False)
    _http: HttpConnection = attrs.field(init=False)
    _socket: LoadConnection = attrs.field(init=False)
    _next: int = attrs.field(default=0, init=False)
    _left: int = attrs.field(default=READS, init=False)
    _asked_at: float = attrs.field(default=0.0, init=False)
    _sent_at: float = attrs.field(default=0.0, init=False)
    _acks: Occurrences = attrs.field(factory=lambda: Occurrences(b'"op":"ack"'), init=False)
    _refusals: Occurrences = attrs.field(factory=lambda: Occurrences(b'"op":"error"'), init=False)

    async def open(self, api_port: int, gateway_port: int) -> None:
        self._http = await connect_http(api_port, HttpConnection(self._on_answer, self._on_lost))
        self._socket = await connect_socket(gateway_port, LoadConnection("/ws", self._on_frames))
        self._socket.send(hello(self.number + 1))

    def start(self) -> None:
        self._next = self.number * READS
        self._read()

    def close(self) -> None:
        self._socket.transport.abort()
        self._http.transport.abort()

    @property
    def is_quiet(self) -> bool:
        return not self.reading and not self.unacked

    def _read(self) -> None:
        self.reading = True
        self._asked_at = time.perf_counter()
        self._http.send(self.requests[self._next % len(self.requests)])
        self._next += 1

    def _on_answer(self, answer: HttpAnswer) -> None:
        self.tally.reads.record_value(_micros_since(self._asked_at))
        self.tally.tiers[answer.tier] += 1
        if answer.status != 200:
            self.tally.errors[f"HTTP {answer.status}"] += 1
        self.reading = False
        self._left -= 1
        if self._left:
            self._go_on()
        elif not self.unacked:
            self._write()

    def _write(self) -> None:
        if self.stopping:
            return
        self.unacked = WRITES
        self._sent_at = time.perf_counter()
        self._socket.transport.write(self.frames)
        self._left = READS
        self._go_on()

    def _go_on(self) -> None:
        if not self.stopping:
            self._read()

    def _on_frames(self, data: bytes) -> None:
        acked, refused = self._acks.count(data), self._refusals.count(data)
        for _ in range(acked):
            self.tally.acks.record_value(_micros_since(self._sent_at))
        if refused:
            self.tally.errors["refused message"] += refused
        self.unacked -= acked + refused
        if not self.unacked and not self._left and acked + refused:
            self._write()

    def _on_lost(self) -> None:
        self.tally.errors["lost connection"] += self.reading


def _micros_since(moment: float) -> int:
    return min(max(1, int((time.perf_counter() - moment) * 1e6)), LONGEST_US)
