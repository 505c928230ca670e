"""The bench of ``chatflow up``: everything in one process."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.measure import CONNECTIONS, ROOMS, WINDOW, FullSpeed, full_speed, milliseconds, paced, rss_mb
from benchmarks.report import Report
from tests.harness.process import UpProcess

PACED_RATE = 500


def stored_now(up: UpProcess) -> int:
    """Sequences have no gaps, so the heads add up to all messages."""
    with contextlib.closing(sqlite3.connect(f"file:{up.data_dir}/chatflow.db?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT COALESCE(SUM(last_seq), 0) FROM room_heads").fetchone()[0])


def thread_seconds(pid: int) -> dict[str, float]:
    """CPU seconds of each thread by its role: the event loop is the main thread."""
    by_part = {"event loop": 0.0, "database threads": 0.0}
    for thread in psutil.Process(pid).threads():
        part = "event loop" if thread.id == pid else "database threads"
        by_part[part] += thread.user_time + thread.system_time
    return by_part


async def bench_embedded(console: Console, seconds: float) -> Report:
    """Print what the process sustains on each path, and what an ack costs in time."""
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        up = UpProcess(Path(directory))
        up.start()
        try:
            await up.ready()
            pid = up.pid
            idle_mb = rss_mb(pid)
            latency = await paced(up.gateway_port, PACED_RATE, seconds)
            runs = {
                kind: await full_speed(
                    up.gateway_port, kind, seconds, stored=lambda: stored_now(up), cpu=lambda: thread_seconds(pid)
                )
                for kind in ("/ws", "/chat")
            }
            loaded_mb = rss_mb(pid)
            audit = up.run("audit")
            size_mb = (up.data_dir / "chatflow.db").stat().st_size / 2**20
        finally:
            code = up.stop()
    console.print("\n[bold]chatflow up[/], profile O12, everything in one process")
    console.print(_table(runs))
    console.print("us: CPU per stored message. Target on /ws: 25,000 stored msg/s")
    console.print(f"ack at {PACED_RATE} msg/s: {milliseconds(latency)} (target p99: 10 ms)")
    console.print(f"RSS: idle {idle_mb:.0f} MB, after the run {loaded_mb:.0f} MB; database {size_mb:.0f} MB")
    console.print(audit.stdout.strip() or audit.stderr.strip())
    console.print(f"drained on SIGTERM with exit code {code}")
    counts = {f"stored on {kind}": run.stored for kind, run in runs.items()}
    return Report(audit.returncode or code, counts | {"paced acks": int(latency.total_count)})


def _table(runs: dict[str, FullSpeed]) -> Table:
    title = f"{CONNECTIONS} connections, {ROOMS} rooms, {WINDOW} messages unacknowledged on each"
    parts = list(next(iter(runs.values())).cpu_us)
    table = Table("path", title=title, title_justify="left")
    for column in ("frame", "stored msg/s", "acked msg/s", "errors", *parts):
        table.add_column(column, justify="right")
    for kind, run in runs.items():
        table.add_row(
            kind,
            f"{run.frame_bytes} B",
            f"{run.stored_per_s:,.0f}",
            f"{run.acked_per_s:,.0f}",
            str(run.errors),
            *(f"{run.cpu_us[part]:.1f} us" for part in parts),
        )
    return table
