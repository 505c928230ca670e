"""The 70/30 mix: 64 people who read and write, over every role and server, all on the same cores."""

import asyncio
import math
import re
import shutil
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from benchmarks.client import masked_frame
from benchmarks.fill import ROOMS, fill
from benchmarks.http import get_request, timed_get
from benchmarks.measure import ANSWERS_WITHIN_S, CONNECTIONS, WARM_UP, process_seconds, to_json
from benchmarks.person import WRITES, Person, Tally
from benchmarks.report import Report
from benchmarks.servers import Servers
from tests.harness.fleet import Fleet
from tests.harness.waiting import eventually

FILLED_ROWS = 100_000
CACHED = {"O1", "O12"}
L1_PATH = "/api/analytics/top-rooms"
L1_CONNECTIONS = 64
L1_MOST_S = 5


@attrs.frozen
class MixRun:
    """``cores``: CPU seconds per second, by process. ``l1_rps``: ``None`` where there is no cache, or no wrk."""

    took_s: float
    tally: Tally
    cores: dict[str, float]
    l1_rps: float | None
    audit: str
    code: int


def paths() -> list[str]:
    """Ten reads for each room: 40 % room page, 20 % active users, 20 % top users, 10 % top rooms, 10 % health."""
    since = datetime.now(UTC).replace(second=0) - timedelta(hours=1)
    active, users = f"/api/users/active?start={since:%Y-%m-%dT%H:%M:%SZ}", "/api/analytics/top-users"
    listed = []
    for number in range(ROOMS):
        pages = [f"/api/messages/room?roomId={(number * 4 + step) % ROOMS + 1}&limit=100" for step in range(4)]
        listed += [pages[0], active, pages[1], users, L1_PATH, pages[2], active, pages[3], users, "/api/health"]
    return listed


async def bench_mix(
    console: Console, servers: Servers, profiles: list[str], seconds: float, rows: int = FILLED_ROWS
) -> Report:
    """Print what each profile sustains, on so many rows and those that come to them."""
    runs: dict[str, MixRun] = {}
    for profile in profiles:
        with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
            runs[profile] = await _MixBench(Path(directory), servers, profile, rows).run(seconds)
            console.print(f"{profile}: {runs[profile].audit}")
    console.print(_table(runs, rows))
    console.print("cores: CPU seconds per second, by process; ack: from sending three messages to each one's ack")
    for profile, run in runs.items():
        if run.l1_rps is not None:
            console.print(f"{profile}: one key over and over from L1: {run.l1_rps:,.0f} RPS per api process")
    console.print("targets: the mix in O12 11,021 RPS, L1 hits 20,000 RPS per api process")
    counts: Counter[str] = Counter()
    for profile, run in runs.items():
        counts[f"reads in {profile}"] = int(run.tally.reads.total_count)
        counts[f"acks in {profile}"] = int(run.tally.acks.total_count)
        if profile in CACHED:
            counts[f"l1 hits in {profile}"] = run.tally.tiers["l1"]
    errors = sum(run.tally.errors.total() for run in runs.values())
    return Report(max(run.code for run in runs.values()), counts, missed=errors)


class _MixBench:
    """One profile on a fresh virtual host, a fresh database and an empty Redis."""

    def __init__(self, directory: Path, servers: Servers, profile: str, rows: int) -> None:
        self.rabbit, self.maria, self.redis = servers.rabbit, servers.maria, servers.redis
        self.profile, self.rows = profile, rows
        self.database = self.maria.database()
        settings = {"CHATFLOW_PROFILE": profile}
        if profile in CACHED:
            self.redis.flush()
            settings["CHATFLOW_CACHE_URL"] = self.redis.url()
        urls = self.rabbit.url(self.rabbit.vhost()), self.maria.url(self.database)
        self.fleet = Fleet(directory, *urls, gateways=1, processors=1, apis=1, settings=settings)

    async def run(self, seconds: float) -> MixRun:
        self.fleet.migrate()
        fill(self.maria, self.database, self.rows)
        await self.fleet.start()  # which sums up what is there
        try:
            tally, took_s, cores = await self._mixed(seconds)
            l1_rps = await self._l1(min(seconds, L1_MOST_S)) if self.profile in CACHED else None
            audit = self.fleet.run("audit")
            code = max(audit.returncode, *(await self.fleet.stop()).values())
        finally:
            self.fleet.kill()
        self.maria.drop(self.database)
        return MixRun(took_s, tally, cores, l1_rps, audit.stdout.strip() or audit.stderr.strip(), code)

    async def _mixed(self, seconds: float) -> tuple[Tally, float, dict[str, float]]:
        requests = [get_request(path) for path in paths()]
        people = [Person(number, requests, frames(number), Tally()) for number in range(CONNECTIONS)]
        for person in people:
            await person.open(self.fleet.of("api")[0].port, self.fleet.of("gateway")[0].port)
        for person in people:
            person.start()
        await asyncio.sleep(WARM_UP * seconds)
        tally, begin, before = Tally(), time.perf_counter(), self.cpu()
        for person in people:
            person.tally = tally
        await asyncio.sleep(seconds)
        took_s, after = time.perf_counter() - begin, self.cpu()
        for person in people:
            person.tally, person.stopping = Tally(), True
        await eventually(
            lambda: all(person.is_quiet for person in people), "everybody's last answer", patience_s=ANSWERS_WITHIN_S
        )
        for person in people:
            person.close()
        return tally, took_s, {part: (after[part] - before[part]) / took_s for part in after}

    async def _l1(self, seconds: float) -> float | None:
        """Requests per second of one key that L1 holds, as wrk counts them."""
        wrk, port = shutil.which("wrk"), self.fleet.of("api")[0].port
        if wrk is None:
            return None
        url = f"http://127.0.0.1:{port}{L1_PATH}"
        arguments = ["-t1", f"-c{L1_CONNECTIONS}", f"-d{math.ceil(seconds)}s", url]
        process = await asyncio.create_subprocess_exec(wrk, *arguments, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        found = re.search(rb"Requests/sec:\s*([\d.]+)", said)
        await timed_get(port, L1_PATH)  # the cached body may have expired with the last answer
        answer, _ = await timed_get(port, L1_PATH)
        if found is None or answer.tier != "l1":
            raise RuntimeError(f"the last answer came from {answer.tier!r}; wrk said {said!r}")
        return float(found[1])

    def cpu(self) -> dict[str, float]:
        pids = {"RabbitMQ": self.rabbit.pid, "MariaDB": self.maria.pid, "Redis": self.redis.pid}
        pids |= {role.role: role.pid for role in self.fleet.roles.values()}
        return {name: process_seconds(pid) for name, pid in pids.items()} | {"load client": time.process_time()}


def frames(number: int) -> bytes:
    """One round's messages to one person's room."""
    room = str(number % ROOMS + 1)
    sends = [{"op": "send", "ref": 1000 + at, "room": room, "text": "x" * 140} for at in range(WRITES)]
    return b"".join(masked_frame(to_json(send)) for send in sends)


def _table(runs: dict[str, MixRun], rows: int) -> Table:
    title = f"{CONNECTIONS} people, 70 % reads, 30 % messages, from {rows:,} rows on"
    table = Table("profile", title=title, title_justify="left")
    for column in ("RPS", "reads p50/p99 ms", "acks p50/p99 ms", "l1/l2/miss", "errors", "cores"):
        table.add_column(column, justify="right")
    for profile, run in runs.items():
        tally = run.tally
        table.add_row(
            profile,
            f"{tally.requests / run.took_s:,.0f}",
            _percentiles(tally.reads),
            _percentiles(tally.acks),
            " / ".join(f"{tally.tiers[tier]:,}" for tier in ("l1", "l2", "miss")),
            ", ".join(f"{count} {what}" for what, count in tally.errors.items()) or "0",
            ", ".join(f"{part} {cores:.2f}" for part, cores in run.cores.items()),
        )
    return table


def _percentiles(histogram: HdrHistogram) -> str:
    p50, p99 = (histogram.get_value_at_percentile(percent) / 1e3 for percent in (50, 99))
    return f"{p50:.1f} / {p99:.1f}"
