"""What an outage costs: a processor killed, MariaDB and RabbitMQ away for a while, all under load.

Messages come at a steady rate whatever happens, and nothing is sent again; two processors, one gateway. Each server is
killed (SIGKILL) and started again on its data.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import psutil
from rich.console import Console

from benchmarks.measure import rss_mb
from benchmarks.probe import Probe, first_after, longest_pause_s, settled_after_s, slowest_s
from benchmarks.report import Report
from benchmarks.servers import Servers
from tests.harness.fleet import Fleet
from tests.harness.process import RoleProcess

RATE = 1_000
NORMAL_S = 0.5
"""The longest time from sending to delivery that counts as normal."""


@attrs.frozen
class OutageTimes:
    """Seconds: of load before an outage, of each outage, and of load after it."""

    quiet_s: float = 3.0
    maria_down_s: float = 60.0
    rabbit_down_s: float = 10.0
    after_s: float = 25.0


class Outages:
    """One fleet, its servers and a probe."""

    def __init__(self, console: Console, fleet: Fleet, servers: Servers, times: OutageTimes) -> None:
        self.console, self.fleet, self.times = console, fleet, times
        self.rabbit, self.maria = servers.rabbit, servers.maria
        self.acked = self.lost = 0

    async def run(self) -> Report:
        await self.fleet.start()
        await asyncio.to_thread(self.rabbit.settle)
        try:
            for scene in (self._without_its_processor, self._without_maria, self._without_rabbit):
                await self._measured(scene)
            audit = self.fleet.run("audit")
            self.console.print(audit.stdout.strip() or audit.stderr.strip())
            code = max(audit.returncode, int(self.lost > 0), *(await self.fleet.stop()).values())
            return Report(code, {"acked": self.acked})
        finally:
            self.fleet.kill()

    async def _measured(self, scene: Callable[[Probe], Awaitable[None]]) -> None:
        probe = Probe(self.fleet.of("gateway")[0].port, RATE)
        await probe.open()
        try:
            probe.start()
            await asyncio.sleep(self.times.quiet_s)
            await scene(probe)
        finally:
            await probe.close()

    async def _without_its_processor(self, probe: Probe) -> None:
        active = max(self.fleet.of("processor"), key=cpu_seconds)
        killed = time.monotonic()
        active.kill()
        await asyncio.sleep(self.times.quiet_s)
        await probe.stop()
        active.start()
        await active.ready()
        self._say(
            f"kill -9 of the active processor: deliveries pause for {longest_pause_s(probe.delivered, killed):.2f} s, "
            f"back to normal {_settled(probe, killed)} after it",
            probe,
        )

    async def _without_maria(self, probe: Probe) -> None:
        down_s = self.times.maria_down_s
        before, killed = self._rss(), time.monotonic()
        await asyncio.to_thread(self.maria.kill)
        await asyncio.sleep(down_s)
        after, acked = self._rss(), sum(killed < moment.at for moment in probe.acked)
        await asyncio.to_thread(self.maria.make_ready)
        back = time.monotonic()
        await asyncio.sleep(self.times.after_s)
        await probe.stop()
        grown = ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f} MB" for name in before)
        self._say(
            f"MariaDB killed for {down_s:.0f} s: {acked:,} acks and {len(probe.refused):,} refusals meanwhile, "
            f"longest pause between acks {longest_pause_s(probe.acked, killed):.2f} s; back to normal "
            f"{_settled(probe, back)} after its return; memory {grown}",
            probe,
        )

    async def _without_rabbit(self, probe: Probe) -> None:
        down_s = self.times.rabbit_down_s
        killed = time.monotonic()
        await asyncio.to_thread(self.rabbit.kill)
        await asyncio.sleep(down_s)
        await asyncio.to_thread(self.rabbit.make_ready)
        back = time.monotonic()
        await asyncio.sleep(self.times.after_s)
        await probe.stop()
        slowest = slowest_s(probe.sent, [*probe.acked, *probe.refused])
        self._say(
            f"RabbitMQ killed for {down_s:.0f} s: first refusal {_seconds(first_after(probe.refused, killed))} after "
            f"it, slowest answer to any message {slowest:.2f} s; first ack {_seconds(first_after(probe.acked, back))}, "
            f"all back to normal {_settled(probe, back)} after its return",
            probe,
        )

    def _rss(self) -> dict[str, float]:
        return {role.name: rss_mb(role.pid) for role in self.fleet.roles.values()}

    def _say(self, text: str, probe: Probe) -> None:
        lost = probe.undelivered()
        self.acked, self.lost = self.acked + len(probe.acked), self.lost + lost
        self.console.print(f"{text}; {len(probe.acked):,} acknowledged in all, {lost} of them not delivered")


def cpu_seconds(role: RoleProcess) -> float:
    """The processor that used most CPU is the one that holds the partitions."""
    return float(sum(psutil.Process(role.pid).cpu_times()[:2]))


def _settled(probe: Probe, since: float) -> str:
    return _seconds(settled_after_s(probe.sent, probe.delivered, since, NORMAL_S))


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


async def bench_outages(console: Console, servers: Servers, times: OutageTimes) -> Report:
    """Print what each outage cost; an acknowledged message that was not delivered is an error."""
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        console.print("\n[bold]outages[/], gateway and two processors in processes of their own")
        urls = servers.rabbit.url(servers.rabbit.vhost()), servers.maria.url(servers.maria.database())
        fleet = Fleet(Path(directory), *urls, gateways=1, processors=2)
        return await Outages(console, fleet, servers, times).run()
