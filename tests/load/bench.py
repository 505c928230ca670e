"""``make bench``: what the embedded path sustains, what an ack costs in time, and where the CPU goes.

The server is a real ``chatflow up`` in a process of its own; this process is the load client. Both run on the same
cores, so compare figures of one run with each other, not with those of another machine. Nothing here asserts a speed.
"""

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import uvloop
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from tests.load.client import PacedSender, WindowedSender, masked_frame
from tests.load.server import UpProcess

CONNECTIONS = 64
ROOMS = 20
WINDOW = 64
WARM_UP_S = 2.0
PACED_RATE = 500
PACED_CONNECTIONS = 8
ANSWERS_WITHIN_S = 30.0
console = Console(width=110, highlight=False)


def session_frames(room: int) -> list[bytes]:
    """``/ws`` sends of about 190 bytes."""
    return [
        masked_frame(_json({"op": "send", "ref": 1000 + at, "room": str(room), "text": "x" * 140}))
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
    return [masked_frame(_json(message))] * WINDOW


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def open_senders(up: UpProcess, kind: str) -> list[WindowedSender]:
    senders = []
    for at in range(CONNECTIONS):
        user, room = at + 1, at % ROOMS + 1
        if kind == "/ws":
            sender = WindowedSender(session_frames(room), b'"op":"ack"', WINDOW)
            await sender.open(up.gateway_port, "/ws", _json({"op": "hello", "userId": user, "username": f"user{user}"}))
        else:
            sender = WindowedSender(chat_frames(user), b'"status":"success"', WINDOW)
            await sender.open(up.gateway_port, f"/chat/{room}", None)
        senders.append(sender)
    return senders


def stored_now(up: UpProcess) -> int:
    """Messages in the database: sequences have no gaps, so the heads add up to them."""
    with sqlite3.connect(f"file:{up.data_dir}/chatflow.db?mode=ro", uri=True) as database:
        return int(database.execute("SELECT COALESCE(SUM(last_seq), 0) FROM room_heads").fetchone()[0])


def thread_seconds(pid: int) -> dict[str, float]:
    """CPU seconds of each thread by its role: the event loop is the main thread."""
    by_part: dict[str, float] = {}
    for thread in psutil.Process(pid).threads():
        part = "event loop" if thread.id == pid else "database threads"
        by_part[part] = by_part.get(part, 0.0) + thread.user_time + thread.system_time
    return by_part


async def saturate(up: UpProcess, kind: str, seconds: float) -> dict[str, float]:
    """Full speed: what is stored per second, and the CPU that it takes."""
    assert up.process is not None
    pid = up.process.pid
    senders = await open_senders(up, kind)
    for sender in senders:
        sender.start()
    await asyncio.sleep(WARM_UP_S)
    begin, acked, stored = time.monotonic(), sum(sender.acked for sender in senders), stored_now(up)
    cpu, own = thread_seconds(pid), time.process_time()
    await asyncio.sleep(seconds)
    took, acked = time.monotonic() - begin, sum(sender.acked for sender in senders) - acked
    stored = stored_now(up) - stored
    spent = {part: value - cpu.get(part, 0.0) for part, value in thread_seconds(pid).items()}
    result = {
        "acked": acked / took,
        "stored": stored / took,
        "errors": float(sum(sender.errors for sender in senders)),
        "frame": float(len(senders[0].frames[0])),
        "rss_mb": psutil.Process(pid).memory_info().rss / 2**20,
        "load client": (time.process_time() - own) / max(stored, 1) * 1e6,
    } | {part: value / max(stored, 1) * 1e6 for part, value in spent.items()}
    await finish(senders)
    return result


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
        await asyncio.sleep(0.05)
    for sender in senders:
        sender.connection.transport.abort()


async def paced(up: UpProcess, rate: int, seconds: float) -> HdrHistogram:
    """Open loop: a message each ``1/rate`` seconds, timed from when it should have been sent to its ack."""
    histogram = HdrHistogram(1, 60_000_000, 3)
    senders = []
    for at in range(PACED_CONNECTIONS):
        room = at % ROOMS + 1

        def payload(ref: int, room: int = room) -> bytes:
            return _json({"op": "send", "ref": ref, "room": str(room), "text": "x" * 140})

        sender = PacedSender(payload, lambda took_s: histogram.record_value(max(1, int(took_s * 1e6))))
        await sender.open(up.gateway_port, _json({"op": "hello", "userId": at + 1, "username": f"user{at + 1}"}))
        senders.append(sender)
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.1
    for ref in range(int(rate * seconds)):
        intended = begin + ref / rate
        if (wait := intended - loop.time()) > 0:
            await asyncio.sleep(wait)
        senders[ref % len(senders)].send(ref, intended)
    async with asyncio.timeout(30):
        while any(sender.intended for sender in senders):
            await asyncio.sleep(0.01)
    for sender in senders:
        sender.connection.transport.abort()
    return histogram


async def run(seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        up = UpProcess(Path(directory))
        up.start()
        try:
            await up.ready()
            assert up.process is not None
            idle_mb = psutil.Process(up.process.pid).memory_info().rss / 2**20
            latency = await paced(up, PACED_RATE, seconds)
            full = {kind: await saturate(up, kind, seconds) for kind in ("/ws", "/chat")}
            audit = up.run("audit")
            size_mb = (up.data_dir / "chatflow.db").stat().st_size / 2**20
        finally:
            code = up.stop()
        for row in report(full, latency, idle_mb, size_mb):
            console.print(row)
        console.print(audit.stdout.strip() or audit.stderr.strip())
        console.print(f"drained on SIGTERM, exit code {code}")
        return audit.returncode or code


def report(
    full: dict[str, dict[str, float]], latency: HdrHistogram, idle_mb: float, size_mb: float
) -> Iterator[Table | str]:
    cores = os.cpu_count()
    yield f"chatflow up, profile O12, {cores} cores shared with the load client, Python {platform.python_version()}"
    table = Table(title=f"{CONNECTIONS} connections, {ROOMS} rooms, window {WINDOW}", title_justify="left")
    for column in ("path", "frame", "stored msg/s", "acked msg/s", "errors", "event loop", "database", "client", "RSS"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for kind, figures in full.items():
        table.add_row(
            kind,
            f"{figures['frame']:.0f} B",
            f"{figures['stored']:,.0f}",
            f"{figures['acked']:,.0f}",
            f"{figures['errors']:.0f}",
            f"{figures['event loop']:.1f} us",
            f"{figures['database threads']:.1f} us",
            f"{figures['load client']:.1f} us",
            f"{figures['rss_mb']:.0f} MB",
        )
    yield table
    yield "us: CPU per stored message, by part. Target: at least 25,000 stored msg/s on /ws."
    quantiles = (latency.get_value_at_percentile(q) / 1000 for q in (50.0, 99.0, 99.9))
    p50, p99, p999 = quantiles
    yield f"ack at {PACED_RATE} msg/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms (target p99: 10 ms)"
    yield f"RSS idle after start: {idle_mb:.0f} MB; database after the run: {size_mb:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    arguments = parser.parse_args()
    sys.exit(uvloop.run(run(arguments.seconds)))


if __name__ == "__main__":
    main()
