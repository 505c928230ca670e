"""How a Redis that is gone, silent, empty or slow affects readers, compared with having no cache at all.

The reads of the mix come at a steady rate over two apis, and a few messages through the gateway end what is cached.
Everything of O12 reaches Redis through the fault proxy, which runs on a thread of the load client.
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from benchmarks.client import PacedSender
from benchmarks.fill import ROOMS, fill
from benchmarks.http import get_request
from benchmarks.measure import WARM_UP, hello, to_json
from benchmarks.mix import CACHED, FILLED_ROWS, paths
from benchmarks.paced_reads import PacedReads, Read
from benchmarks.report import Report
from benchmarks.servers import Servers
from tests.harness.fleet import Fleet
from tests.harness.proxy import FaultProxy, fault_proxies
from tests.harness.redis import RedisServer
from tests.harness.waiting import eventually

READS_PER_S = {"B0": 50, "O12": 300}
"""B0 cannot answer more without falling behind: it counts top lists over all messages."""
WRITES_PER_S = 5
SLOW_S = 2.0
COMES_BACK_S = 20.0
SETTLING = 0.1
"""After hits have come back, until the next phase: a part of a phase's length."""
TIERS = ("l1", "l2", "miss")
UNDER_CAP = "backpressure"


@attrs.frozen
class Phase:
    """What was read from the beginning of a fault until hits had come back.

    Attributes:
        back_s: from the end of the fault until both apis had answered from L1, and from Redis; ``None``: they did not.
    """

    name: str
    reads: list[Read]
    back_s: dict[str, float | None] = attrs.field(factory=dict)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(read.took_s for read in self.reads)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1e3

    @property
    def refused(self) -> Counter[str]:
        """Answers of 500 and more, and lost connections, by what they said."""
        return Counter(read.error or str(read.status) for read in self.reads if read.status >= 500 or not read.status)

    @property
    def is_bad(self) -> bool:
        return bool(set(self.refused) - {UNDER_CAP}) or None in self.back_s.values()


@attrs.frozen(eq=False)
class Faults:
    """Each method injects a fault for ``seconds``, where it has a length, and returns when the fault is over."""

    redis: RedisServer
    proxy: FaultProxy

    async def killed(self, seconds: float) -> None:
        self.redis.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.redis.make_ready)

    async def stopped(self, seconds: float) -> None:
        self.redis.pause()
        await asyncio.sleep(seconds)
        self.redis.resume()

    async def restarted_empty(self, _: float) -> None:
        self.redis.kill()
        await asyncio.to_thread(self.redis.make_ready)

    async def slow(self, seconds: float) -> None:
        self.proxy.delay(SLOW_S / 2)  # in each direction
        await asyncio.sleep(seconds)
        self.proxy.heal()

    async def cut(self, _: float) -> None:
        self.proxy.cut()


class Scene:
    """One running fleet under readers and a writer."""

    def __init__(self, console: Console, fleet: Fleet, profile: str, seconds: float) -> None:
        self.console, self.fleet, self.profile, self.seconds = console, fleet, profile, seconds
        ports = [api.port for api in fleet.of("api")]
        self.reading = PacedReads(ports, [get_request(path) for path in paths()], READS_PER_S[profile])
        self.phases: list[Phase] = []

    async def play(self, faults: Faults) -> int:
        """All phases; the worst exit code of the audit and the drains."""
        await self.fleet.start()
        try:
            async with self.busy():
                await self.without_fault(f"{self.profile}, no fault")
                if self.profile in CACHED:
                    await self.with_fault("Redis killed", faults.killed)
                    await self.with_fault("Redis stopped", faults.stopped)
                    await self.with_fault("Redis restarted empty", faults.restarted_empty)
                    await self.with_fault(f"Redis {SLOW_S:.0f} s slow", faults.slow)
                    await self.with_fault("connections cut", faults.cut)
                    await self.without_fault(f"{self.profile}, afterwards")
            audit = self.fleet.run("audit")
            self.console.print(f"{self.profile}: {audit.stdout.strip() or audit.stderr.strip()}")
            return max(audit.returncode, *(await self.fleet.stop()).values())
        finally:
            self.fleet.kill()

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Readers and a writer run inside the block; when it ends, every read and message has been answered."""
        sender = PacedSender(_message, lambda _: None)
        await sender.open(self.fleet.of("gateway")[0].port, hello(1))
        writing = asyncio.create_task(_write(sender))
        try:
            await self.reading.start()
            await asyncio.sleep(WARM_UP * self.seconds)
            yield
            await self.reading.stop()
        finally:
            writing.cancel()
            self.reading.close()
            await asyncio.wait([writing])
            with contextlib.suppress(TimeoutError):
                await eventually(lambda: not sender.intended, "an ack for every message", patience_s=COMES_BACK_S)
            sender.connection.transport.abort()
        if sender.intended:
            raise RuntimeError(f"{len(sender.intended)} messages were not acknowledged")

    async def without_fault(self, name: str) -> None:
        begin = time.monotonic()
        await asyncio.sleep(self.seconds)
        self._keep(Phase(name, await self.reading.since(begin)))

    async def with_fault(self, name: str, fault: Callable[[float], Awaitable[None]]) -> None:
        """The phase takes ``seconds`` at least, and lasts until hits have come back."""
        begin = time.monotonic()
        await fault(self.seconds)
        end = time.monotonic()
        await asyncio.sleep(begin + self.seconds - end)
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: None not in self._back_s(end).values(), "hits", patience_s=COMES_BACK_S)
        self._keep(Phase(name, await self.reading.since(begin), self._back_s(end)))
        await asyncio.sleep(SETTLING * self.seconds)

    def _back_s(self, end: float) -> dict[str, float | None]:
        """By tier, the later of both apis' first answers from it, asked for after ``end``."""
        later = [read for read in reversed(self.reading.reads) if read.at > end]
        found: dict[str, float | None] = {}
        for tier in ("l1", "l2"):
            first = {read.api: read.at + read.took_s - end for read in later if read.tier == tier}
            found[tier] = max(first.values()) if len(first) == len(self.reading.ports) else None
        return found

    def _keep(self, phase: Phase) -> None:
        self.phases.append(phase)
        self.console.print(f"{phase.name}: {len(phase.reads):,} reads")


def _message(ref: int) -> bytes:
    return to_json({"op": "send", "ref": ref, "room": str(ref % ROOMS + 1), "text": "x" * 140})


async def _write(sender: PacedSender) -> None:
    ref = 0
    while True:
        sender.send(ref, time.perf_counter())
        ref += 1
        await asyncio.sleep(1 / WRITES_PER_S)


async def bench_cache_faults(console: Console, servers: Servers, seconds: float, rows: int = FILLED_ROWS) -> Report:
    """Print what each fault cost; that caching does not come back, or a read is refused, is an error."""
    rabbit, maria, redis = servers.rabbit, servers.maria, servers.redis
    with fault_proxies() as proxied, tempfile.TemporaryDirectory(prefix="chatflow-bench-") as path:
        faults = Faults(redis, proxied(redis.url()))
        codes: list[int] = []
        phases: list[Phase] = []
        for profile in READS_PER_S:
            database = maria.database()
            settings = {"CHATFLOW_PROFILE": profile}
            if profile in CACHED:
                settings["CHATFLOW_CACHE_URL"] = faults.proxy.url(redis.url())
            urls = rabbit.url(rabbit.vhost()), maria.url(database)
            fleet = Fleet(Path(path) / profile, *urls, gateways=1, processors=1, apis=2, settings=settings)
            fleet.migrate()
            fill(maria, database, rows)
            scene = Scene(console, fleet, profile, seconds)
            codes.append(await scene.play(faults))
            phases += scene.phases
    console.print(_table(phases, rows))
    console.print(
        f"{WRITES_PER_S} messages a second besides; a fault's phase lasts until both apis have answered from L1 and "
        "Redis again; back: seconds from the end of the fault until they had"
    )
    counts = {phase.name: len(phase.reads) for phase in phases}
    return Report(max(*codes, *(int(phase.is_bad) for phase in phases)), counts)


def _table(phases: list[Phase], rows: int) -> Table:
    title = f"reads while Redis fails, from {rows:,} rows on"
    table = Table("phase", title=title, title_justify="left")
    for column in ("reads", "p50 ms", "p99 ms", "p99 to B0's", "l1/l2/miss %", "5xx", "back after s, l1/l2"):
        table.add_column(column, justify="right")
    normal_ms = phases[0].percentile_ms(99)
    for phase in phases:
        tiers = Counter(read.tier for read in phase.reads if read.tier)
        p99 = phase.percentile_ms(99)
        table.add_row(
            phase.name,
            f"{len(phase.reads):,}",
            f"{phase.percentile_ms(50):.1f}",
            f"{p99:.1f}",
            f"{p99 / normal_ms:.2f}",
            " / ".join(f"{100 * tiers[tier] / max(tiers.total(), 1):.0f}" for tier in TIERS),
            ", ".join(f"{count} {what}" for what, count in phase.refused.items()) or "0",
            " / ".join("never" if each is None else f"{each:.1f}" for each in phase.back_s.values()),
        )
    return table
