"""What both benches measure, at a gateway's port: full speed through closed windows, and latency on a schedule."""

import asyncio
import json
import select
import selectors
import time
from collections.abc import Callable

import attrs
import psutil
from hdrh.histogram import HdrHistogram

from benchmarks.client import PacedSender, WindowedSender, masked_frame
from tests.harness.waiting import eventually

CONNECTIONS = 64
ROOMS = 20
WINDOW = 64
WARM_UP = 0.2
"""Before it measures, a bench runs for this part of the time that it measures."""
PACED_CONNECTIONS = 8
ANSWERS_WITHIN_S = 60.0

CpuSeconds = Callable[[], dict[str, float]]
"""CPU seconds spent so far, by part."""

Stored = Callable[[], int]
"""Messages in the database now."""


@attrs.frozen
class FullSpeed:
    """One run at full speed. ``cpu_us``: CPU per stored message, by part, the load client's included."""

    frame_bytes: int
    stored: int
    acked_per_s: float
    stored_per_s: float
    errors: int
    cpu_us: dict[str, float]


def to_json(value: object) -> bytes:
    """Without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def hello(user: int) -> bytes:
    """The first frame on ``/ws``."""
    return to_json({"op": "hello", "userId": user, "username": f"user{user}"})


def session_frames(room: int) -> list[bytes]:
    """``/ws`` sends of about 190 bytes."""
    return [
        masked_frame(to_json({"op": "send", "ref": 1000 + at, "room": str(room), "text": "x" * 140}))
        for at in range(WINDOW)
    ]


def chat_frames(user: int) -> list[bytes]:
    """``/chat`` frames of about 190 bytes."""
    message = {
        "userId": str(user),
        "username": f"user{user}",
        "message": "x" * 80,
        "timestamp": "2026-11-24T01:31:00.123Z",
        "messageType": "TEXT",
    }
    return [masked_frame(to_json(message))] * WINDOW


async def open_senders(port: int, kind: str) -> list[WindowedSender]:
    """Connected, with nothing sent; ``kind`` is ``/ws`` or ``/chat``."""
    senders = []
    for at in range(CONNECTIONS):
        user, room = at + 1, at % ROOMS + 1
        if kind == "/ws":
            sender = WindowedSender(session_frames(room), b'"op":"ack"', WINDOW)
            await sender.open(port, "/ws", hello(user))
        else:
            sender = WindowedSender(chat_frames(user), b'"status":"success"', WINDOW)
            await sender.open(port, f"/chat/{room}", None)
        senders.append(sender)
    return senders


async def full_speed(port: int, kind: str, seconds: float, *, stored: Stored, cpu: CpuSeconds) -> FullSpeed:
    """Closed loop after a warm-up. Stored messages count up to the end of the backlog, and so does their time."""
    at_first = await asyncio.to_thread(stored)
    senders = await open_senders(port, kind)
    for sender in senders:
        sender.start()
    await asyncio.sleep(WARM_UP * seconds)
    begin, acked_before = time.monotonic(), sum(sender.acked for sender in senders)
    stored_before, cpu_before, own_before = await asyncio.to_thread(stored), cpu(), time.process_time()
    await asyncio.sleep(seconds)
    acked_per_s = (sum(sender.acked for sender in senders) - acked_before) / (time.monotonic() - begin)
    await finish(senders)
    count = await drained(stored, at_first + sum(sender.acked for sender in senders)) - stored_before
    took_s = time.monotonic() - begin
    spent = {part: value - cpu_before.get(part, 0.0) for part, value in cpu().items()}
    spent["load client"] = time.process_time() - own_before
    return FullSpeed(
        len(senders[0].frames[0]),
        count,
        acked_per_s,
        count / took_s,
        sum(sender.errors for sender in senders),
        {part: value / max(count, 1) * 1e6 for part, value in spent.items()},
    )


async def finish(senders: list[WindowedSender]) -> None:
    """Let every message be answered, then hang up."""
    for sender in senders:
        sender.stopping = True
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while left := [sender for sender in senders if sender.acked + sender.errors < sender.sent]:
        if time.monotonic() > deadline:
            sent, acked, errors = (sum(getattr(each, name) for each in left) for name in ("sent", "acked", "errors"))
            lost = sum(each.connection.lost for each in left)
            raise RuntimeError(f"{len(left)} connections: {sent} sent, {acked} acked, {errors} errors, {lost} cut off")
        await asyncio.sleep(0.02)
    for sender in senders:
        sender.connection.transport.abort()


async def drained(stored: Stored, expected: int) -> int:
    """Wait until everything acknowledged is stored; how much is there then, or when nothing has moved for long."""
    count, since = -1, time.monotonic()
    while count < expected and time.monotonic() - since < ANSWERS_WITHIN_S:
        now = await asyncio.to_thread(stored)
        if now != count:
            count, since = now, time.monotonic()
        await asyncio.sleep(0.01)
    return count


class Punctual(selectors.EpollSelector):
    """Wakes when it was asked to: epoll and libuv count in milliseconds, as long as a message has at 1,000/s."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


async def paced(port: int, rate: int, seconds: float) -> HdrHistogram:
    """Open loop: a message each ``1/rate`` seconds, timed in us from when it should have been sent to its ack.

    The sender has a loop of its own, which keeps time to a tenth of a millisecond.
    """

    def run() -> HdrHistogram:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Punctual())) as runner:
            return runner.run(_paced(port, rate, seconds))

    return await asyncio.to_thread(run)


async def _paced(port: int, rate: int, seconds: float) -> HdrHistogram:
    histogram = HdrHistogram(1, 60_000_000, 3)
    senders = []
    for at in range(PACED_CONNECTIONS):

        def payload(ref: int, room: int = at % ROOMS + 1) -> bytes:
            return to_json({"op": "send", "ref": ref, "room": str(room), "text": "x" * 140})

        sender = PacedSender(payload, lambda took_s: histogram.record_value(max(1, int(took_s * 1e6))))
        await sender.open(port, hello(at + 1))
        senders.append(sender)
    begin = time.perf_counter() + 0.1
    for ref in range(int(rate * seconds)):
        intended = begin + ref / rate
        if (wait := intended - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        senders[ref % len(senders)].send(ref, intended)
    await eventually(lambda: not any(sender.intended for sender in senders), "an ack for every message")
    for sender in senders:
        sender.connection.transport.abort()
    return histogram


def milliseconds(histogram: HdrHistogram) -> str:
    """Percentiles in words."""
    p50, p99, p999 = (histogram.get_value_at_percentile(q) / 1000 for q in (50.0, 99.0, 99.9))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms"


def process_seconds(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


def rss_mb(pid: int) -> float:
    """Resident memory."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)
