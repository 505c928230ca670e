"""The bench of the roles in processes of their own, over a private RabbitMQ and MariaDB."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.insert_limit import BATCH, WRITERS, measure
from benchmarks.measure import FullSpeed, full_speed, milliseconds, paced, process_seconds
from benchmarks.report import Report
from benchmarks.servers import Servers
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer

PACED_RATE = 1_000
WITH_SUMMARIES = {"O2", "O12"}
LIMIT_S = 5.0


async def bench_separate(console: Console, servers: Servers, profiles: list[str], seconds: float) -> Report:
    """Print what a gateway and a processor sustain in each profile, and what an ack costs in time."""
    runs: dict[str, FullSpeed] = {}
    worst = 0
    limits = {summaries: await _limit(servers.maria, summaries, seconds) for summaries in (False, True)}
    for profile in profiles:
        with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
            bench = _SeparateRun(Path(directory), servers, profile)
            runs[profile] = await bench.run(seconds)
            worst = max(worst, bench.code)
            console.print(f"{profile}: {bench.said}")
    console.print("\n[bold]gateway, processor, RabbitMQ, MariaDB[/] in processes of their own")
    console.print(_table(runs, limits))
    console.print(
        f"insert limit: {WRITERS} connections, plain multi-row inserts of {BATCH:,} rows, nothing else running: "
        f"{limits[False]:,.0f} rows/s into messages alone, {limits[True]:,.0f} with the summary tables of O2 and O12"
    )
    console.print("targets in O12: 21,091 stored msg/s, 0.45 of the limit, ack at 1,000 msg/s p50 3 ms and p99 10 ms")
    return Report(worst, {f"stored in {profile}": run.stored for profile, run in runs.items()})


async def _limit(maria: MariaServer, summaries: bool, seconds: float) -> float:
    database = maria.database()
    limit = await measure(maria.url(database), seconds=min(seconds, LIMIT_S), summaries=summaries)
    maria.drop(database)
    return limit.rows_per_s


class _SeparateRun:
    """One profile on a fresh virtual host and a fresh database."""

    def __init__(self, directory: Path, servers: Servers, profile: str) -> None:
        self.rabbit, self.maria = servers.rabbit, servers.maria
        self.database = self.maria.database()
        urls = self.rabbit.url(self.rabbit.vhost()), self.maria.url(self.database)
        self.fleet = Fleet(directory, *urls, gateways=1, processors=1, settings={"CHATFLOW_PROFILE": profile})
        self.said = ""
        self.code = 0

    async def run(self, seconds: float) -> FullSpeed:
        await self.fleet.start()
        try:
            port = self.fleet.of("gateway")[0].port
            latency = await paced(port, PACED_RATE, seconds)
            full = await full_speed(port, "/ws", seconds, stored=self.stored, cpu=self.cpu)
            audit = self.fleet.run("audit")
            self.said = f"ack at {PACED_RATE} msg/s: {milliseconds(latency)}; {audit.stdout.strip() or audit.stderr}"
            self.code = max(audit.returncode, *(await self.fleet.stop()).values())
        finally:
            self.fleet.kill()
        self.maria.drop(self.database)
        return full

    def stored(self) -> int:
        rows = self.maria.execute("SELECT COALESCE(SUM(last_seq), 0) FROM room_heads", self.database)
        return int(str(rows[0][0]))

    def cpu(self) -> dict[str, float]:
        pids = {"RabbitMQ": self.rabbit.pid, "MariaDB": self.maria.pid}
        pids |= {role.role: role.pid for role in self.fleet.roles.values()}
        return {name: process_seconds(pid) for name, pid in pids.items()}


def _table(runs: dict[str, FullSpeed], limits: dict[bool, float]) -> Table:
    parts = list(next(iter(runs.values())).cpu_us)
    table = Table("profile", title="CPU us per stored message, by process", title_justify="left")
    for column in ("stored msg/s", "of the limit", "acked msg/s", "errors", *parts):
        table.add_column(column, justify="right")
    for profile, run in runs.items():
        shown = (f"{run.cpu_us[part]:.1f}" for part in parts)
        ratio = run.stored_per_s / limits[profile in WITH_SUMMARIES]
        table.add_row(
            profile, f"{run.stored_per_s:,.0f}", f"{ratio:.2f}", f"{run.acked_per_s:,.0f}", str(run.errors), *shown
        )
    return table
