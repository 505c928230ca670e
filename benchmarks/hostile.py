"""Hostile clients: how each attack affects polite clients, and what it costs in memory.

Each attack is compared with the seconds right before it, on the same connections: the machine is shared and noisy.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import attrs
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from benchmarks.client import Occurrences, PacedSender
from benchmarks.measure import Punctual, hello, process_seconds, rss_mb, to_json
from benchmarks.report import Report
from benchmarks.servers import Servers
from tests.harness.fleet import Fleet
from tests.harness.process import RoleProcess, UpProcess

ROOT = Path(__file__).parents[1]
POLITE = 50
RATE = 400
AFTER = 0.2
WARM_UP = 0.3
"""Parts of the time that an attack lasts."""
SAMPLE_S = 0.05
RATIO = 3.0
RSS_MB = 64.0
ROOMS = 20


@attrs.define(eq=False)
class PoliteSender(PacedSender):
    """A paced sender that counts what is refused."""

    refused: int = attrs.field(default=0, init=False)
    _refusals: Occurrences = attrs.field(factory=lambda: Occurrences(b'"op":"error"'), init=False)

    def _on_data(self, data: bytes) -> None:
        self.refused += self._refusals.count(data)
        super()._on_data(data)


@attrs.define(eq=False)
class Window:
    """What happened between two moments; an ack counts where its message was due."""

    acks: HdrHistogram = attrs.field(factory=lambda: HdrHistogram(1, 60_000_000, 3))
    refused: int = 0

    def quantile_ms(self, q: float) -> float:
        return float(self.acks.get_value_at_percentile(q) / 1000)


@attrs.define(eq=False)
class PoliteClients:
    """``POLITE`` connections that send ``RATE`` messages a second between them, whatever happens, from a thread."""

    port: int
    window: Window = attrs.field(factory=Window)
    _stopping: bool = False
    _thread: threading.Thread = attrs.field(init=False)
    _senders: list[PoliteSender] = attrs.field(factory=list)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()

    def unanswered(self) -> int:
        return sum(len(sender.intended) for sender in self._senders)

    def next_window(self) -> Window:
        """Begin another; the one that ends."""
        ended, self.window = self.window, Window()
        ended.refused = sum(sender.refused for sender in self._senders)
        for sender in self._senders:
            sender.refused = 0
        return ended

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Punctual())) as runner:
            runner.run(self._send())

    async def _send(self) -> None:
        for at in range(POLITE):

            def payload(ref: int, room: int = at % ROOMS + 1) -> bytes:
                return to_json({"op": "send", "ref": ref, "room": str(room), "text": "x" * 140})

            sender = PoliteSender(payload, self._record)
            await sender.open(self.port, hello(at + 1))
            self._senders.append(sender)
        begin, ref = time.perf_counter() + 0.1, 0
        while not self._stopping:
            intended = begin + ref / RATE
            if (wait := intended - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._senders[ref % POLITE].send(ref, intended)
            ref += 1
        for sender in self._senders:
            sender.connection.transport.abort()

    def _record(self, took_s: float) -> None:
        self.window.acks.record_value(max(1, int(took_s * 1e6)))


@attrs.frozen
class Plan:
    """Which attacks, by how many connections, for how long."""

    attacks: Sequence[str]
    counts: Sequence[int]
    seconds: float


@attrs.frozen
class Outcome:
    """One attack."""

    attack: str
    connections: int
    without: Window
    under: Window
    after: Window
    rss: tuple[float, float, float]
    cores: tuple[float, ...]
    hostile: dict[str, int]

    @property
    def ratio(self) -> float:
        return self.under.quantile_ms(99) / max(0.01, self.without.quantile_ms(99))

    @property
    def is_met(self) -> bool:
        grown = self.rss[1] - self.rss[0]
        return self.ratio <= RATIO and grown <= RSS_MB and not (self.under.refused or self.after.refused)


async def attacked(polite: PoliteClients, pid: int, attack: str, connections: int, seconds: float) -> Outcome:
    """Measure without, under and after."""
    arguments = ("--port", str(polite.port), "--connections", str(connections), "--seconds", str(seconds))
    # At the lowest priority from its first instruction, and started up before anything is measured.
    hostile = await asyncio.create_subprocess_exec(
        *("nice", "-n", "19", sys.executable, "-m", "benchmarks.attacker", attack, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    if hostile.stdout is not None:
        await hostile.stdout.readline()
    polite.next_window()
    before, spent = rss_mb(pid), [(time.monotonic(), process_seconds(pid))]
    await asyncio.sleep(seconds)
    without = polite.next_window()
    spent.append((time.monotonic(), process_seconds(pid)))
    ending, peak = asyncio.create_task(hostile.communicate(b"go\n")), before
    while not ending.done():
        await asyncio.wait([ending], timeout=SAMPLE_S)
        peak = max(peak, rss_mb(pid))
    under = polite.next_window()
    spent.append((time.monotonic(), process_seconds(pid)))
    await asyncio.sleep(AFTER * seconds)
    after = polite.next_window()
    said = json.loads((await ending)[0] or b"{}")
    cores = tuple((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairwise(spent))
    return Outcome(attack, connections, without, under, after, (before, peak, rss_mb(pid)), cores, said)


async def campaign(console: Console, role: RoleProcess, plan: Plan) -> list[Outcome]:
    """Every attack, alone and by several."""
    polite = PoliteClients(role.port)
    polite.start()
    outcomes = []
    try:
        await asyncio.sleep(WARM_UP * plan.seconds)
        for attack in plan.attacks:
            for count in plan.counts:
                outcomes.append(await attacked(polite, role.pid, attack, count, plan.seconds))
                console.print(_line(outcomes[-1]))
    finally:
        polite.stop()
    return outcomes


async def bench_hostile(console: Console, servers: Servers | None, plan: Plan) -> Report:
    """Print what polite clients of a fleet on these servers notice, or without servers those of `chatflow up`."""
    outcomes, code = await (_bench_fleet(console, servers, plan) if servers else _bench_up(console, plan))
    console.print(f"targets: p99 at most {RATIO:.0f} times that without, none refused, RSS {RSS_MB:.0f} MiB more")
    counts = {
        "polite acks": sum(outcome.under.acks.total_count for outcome in outcomes),
        "hostile bytes": sum(outcome.hostile.get("sent_bytes", 0) for outcome in outcomes),
    }
    return Report(code, counts, missed=sum(not outcome.is_met for outcome in outcomes))


async def _bench_up(console: Console, plan: Plan) -> tuple[list[Outcome], int]:
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        up = UpProcess(Path(directory))
        up.start()
        try:
            await up.ready()
            outcomes = await campaign(console, up, plan)
            audit = up.run("audit")
        finally:
            code = up.stop()
    console.print(_table("chatflow up", outcomes))
    console.print(audit.stdout.strip() or audit.stderr.strip())
    return outcomes, audit.returncode or code


async def _bench_fleet(console: Console, servers: Servers, plan: Plan) -> tuple[list[Outcome], int]:
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        urls = servers.rabbit.url(servers.rabbit.vhost()), servers.maria.url(servers.maria.database())
        cache = {"CHATFLOW_CACHE_URL": servers.redis.url()}
        fleet = Fleet(Path(directory), *urls, gateways=1, processors=1, settings=cache)
        await fleet.start()
        try:
            outcomes = await campaign(console, fleet.of("gateway")[0], plan)
            audit = fleet.run("audit")
            code = max(audit.returncode, *(await fleet.stop()).values())
        finally:
            fleet.kill()
    console.print(_table("gateway of a fleet", outcomes))
    console.print(audit.stdout.strip() or audit.stderr.strip())
    return outcomes, code


def _cells(outcome: Outcome) -> Iterator[str]:
    yield outcome.attack
    yield str(outcome.connections)
    for window in (outcome.without, outcome.under):
        yield f"{window.quantile_ms(50):.1f} / {window.quantile_ms(99):.1f}"
    yield f"{outcome.ratio:.1f}"
    yield f"{outcome.under.refused} / {outcome.after.refused}"
    yield " / ".join(f"{each:.0f}" for each in outcome.rss)
    yield " / ".join(f"{each:.2f}" for each in outcome.cores)
    yield f"{outcome.hostile.get('sent_bytes', 0) / 2**20:.1f} MiB, {outcome.hostile.get('opened', 0)}"
    yield "yes" if outcome.is_met else "NO"


def _line(outcome: Outcome) -> str:
    return "  ".join(_cells(outcome))


def _table(title: str, outcomes: Sequence[Outcome]) -> Table:
    head = f"{title}: {POLITE} polite connections, {RATE} messages/s; ack p50 / p99 in ms, from the intended send"
    table = Table("attack", title=head, title_justify="left")
    for column in (
        "by",
        "without",
        "under",
        "ratio",
        "refused, after",
        "RSS before / peak / after",
        "sent, opened",
        "met",
    ):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    return table
