"""What each core query costs over HTTP when no cache answers it, cold and warm, with and without summary tables.

Cold: the first call after MariaDB was restarted with an empty buffer pool. Warm: calls one after the other, with rooms,
users and windows drawn anew for each, the same for each profile.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from benchmarks.fill import DAYS, END_US, ROOMS, USERS, fill
from benchmarks.http import timed_get
from benchmarks.report import Report
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.waiting import eventually

CALLS = 30
LONGEST_S = 20.0
"""No more calls of a query after that."""
COMES_BACK_S = 60.0
END = datetime.fromtimestamp(END_US / 1e6, UTC)

Draw = Callable[[random.Random], str]


@attrs.frozen
class CoreQuery:
    """``path`` draws one; ``target_ms`` and ``reference_ms`` are p50s, where somebody named one."""

    name: str
    path: Draw
    target_ms: float | None = None
    reference_ms: str = ""


@attrs.frozen
class Timing:
    """Seconds of calls, and how many were not answered with 200."""

    cold_s: float
    warm_s: list[float]
    refused: int

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.warm_s)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1e3


def _room(parameters: str) -> Draw:
    return lambda rng: f"/api/messages/room?roomId={rng.randint(1, ROOMS)}&{parameters}"


def _window(rng: random.Random, length: timedelta) -> str:
    start = END - timedelta(days=DAYS) + rng.random() * (timedelta(days=DAYS) - length)
    return f"start={start:%Y-%m-%dT%H:%M:%SZ}&end={start + length:%Y-%m-%dT%H:%M:%SZ}"


def _room_in(length: timedelta) -> Draw:
    return lambda rng: f"{_room('limit=1000')(rng)}&{_window(rng, length)}"


def _active(length: timedelta) -> Draw:
    return lambda rng: f"/api/users/active?{_window(rng, length)}"


def _room_before(rng: random.Random) -> str:
    return f"{_room('limit=1000')(rng)}&end={END - timedelta(days=DAYS) * rng.random():%Y-%m-%dT%H:%M:%SZ}"


QUERIES = (
    CoreQuery("room page, 1,000 rows", _room("limit=1000"), 100, "13"),
    CoreQuery("room page of one hour", _room_in(timedelta(hours=1)), 100),
    CoreQuery("room page of one day", _room_in(timedelta(days=1)), 100),
    CoreQuery("room page before a moment", _room_before, 100),
    CoreQuery("user history, 100 rows", lambda rng: f"/api/messages/user?userId={rng.randint(1, USERS)}", 200, "2"),
    CoreQuery(
        "user history, 1,000 rows", lambda rng: f"/api/messages/user?userId={rng.randint(1, USERS)}&limit=1000", 200
    ),
    CoreQuery("active users, 1 hour", _active(timedelta(hours=1)), 500, "<1"),
    CoreQuery("active users, 1 day", _active(timedelta(days=1)), 500),
    CoreQuery("active users, 20 days", _active(timedelta(days=20)), 500),
    CoreQuery("active users, ever", lambda _: "/api/users/active", 500),
    CoreQuery("rooms of a user", lambda rng: f"/api/users/rooms?userId={rng.randint(1, USERS)}", 50, "2"),
    CoreQuery("top users", lambda _: "/api/analytics/top-users"),
    CoreQuery("top rooms", lambda _: "/api/analytics/top-rooms"),
    CoreQuery("throughput, 60 minutes", lambda _: "/api/analytics/throughput"),
    CoreQuery("patterns", lambda _: "/api/analytics/patterns"),
    CoreQuery(
        "all of it in one, with the total",
        lambda rng: f"/api/all?roomId={rng.randint(1, ROOMS)}&userId={rng.randint(1, USERS)}",
    ),
)


async def bench_reads(
    console: Console, maria: MariaServer, profiles: list[str], rows: int, queries: Sequence[CoreQuery] = QUERIES
) -> Report:
    """Print how long each query took, on so many rows."""
    timings: dict[str, dict[str, Timing]] = {}
    codes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        database = maria.database()
        tools = _api(Path(directory), maria.url(database), "O2")
        tools.migrate()
        begin = time.perf_counter()
        fill(maria, database, rows)
        console.print(f"{rows:,} rows made in {time.perf_counter() - begin:.0f} s")
        for profile in profiles:
            fleet = _api(Path(directory) / profile, maria.url(database), profile)
            await fleet.start()
            try:
                port = fleet.of("api")[0].port
                timings[profile] = {each.name: await _measured(port, maria, each) for each in queries}
                codes += (await fleet.stop()).values()
            finally:
                fleet.kill()
        console.print(_table(timings, queries, rows))
        console.print("milliseconds; cold: the first call on an empty buffer pool; a number in brackets: calls refused")
        audit = await asyncio.to_thread(tools.run, "audit")
        console.print(audit.stdout.strip() or audit.stderr.strip())
        maria.drop(database)
    refused = sum(each.refused for timing in timings.values() for each in timing.values())
    answered = sum(1 + len(each.warm_s) - each.refused for timing in timings.values() for each in timing.values())
    return Report(max(audit.returncode, *codes), {"answered": answered}, missed=refused)


def _api(directory: Path, database_url: str, profile: str) -> Fleet:
    return Fleet(
        directory, "memory://", database_url, gateways=0, processors=0, apis=1, settings={"CHATFLOW_PROFILE": profile}
    )


async def _measured(port: int, maria: MariaServer, query: CoreQuery) -> Timing:
    rng = random.Random(query.name)
    await asyncio.to_thread(maria.kill)
    await asyncio.to_thread(maria.make_ready)
    await _serves(port)
    answer, cold_s = await timed_get(port, query.path(rng))
    refused = int(answer.status != 200)
    warm_s: list[float] = []
    begin = time.perf_counter()
    while len(warm_s) < CALLS and time.perf_counter() - begin < LONGEST_S:
        answer, took_s = await timed_get(port, query.path(rng))
        refused += answer.status != 200
        warm_s.append(took_s)
    return Timing(cold_s, warm_s, refused)


async def _serves(port: int) -> None:
    """Wait until the api has found the database again; the room it asks for does not exist."""

    async def answers() -> bool:
        return (await timed_get(port, "/api/messages/room?roomId=nowhere"))[0].status == 200

    await eventually(answers, "an answer of the api", patience_s=COMES_BACK_S)


def _table(timings: dict[str, dict[str, Timing]], queries: Sequence[CoreQuery], rows: int) -> Table:
    table = Table("query", title=f"{rows:,} rows, over HTTP, no cache", title_justify="left")
    for profile in timings:
        for column in ("cold", "p50", "p99"):
            table.add_column(f"{profile} {column}", justify="right")
    table.add_column("target", justify="right")
    table.add_column("other system", justify="right")
    for query in queries:
        cells = [cell for timing in timings.values() for cell in _cells(timing[query.name], query.target_ms)]
        target = f"< {query.target_ms:.0f}" if query.target_ms else ""
        table.add_row(query.name, *cells, target, query.reference_ms)
    return table


def _cells(timing: Timing, target_ms: float | None) -> list[str]:
    p50 = timing.percentile_ms(50)
    missed = " missed" if target_ms is not None and p50 >= target_ms else ""
    refused = f" ({timing.refused})" if timing.refused else ""
    return [f"{timing.cold_s * 1e3:.1f}", f"{p50:.1f}{missed}{refused}", f"{timing.percentile_ms(99):.1f}"]
