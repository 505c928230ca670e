"""What an outage costs: a processor killed, MariaDB and RabbitMQ away for a while, all under load.

Messages come at a steady rate whatever happens, and nothing is sent again; two processors, one gateway. Each server is
killed (SIGKILL) and started again on its data.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.measure import rss_mb
from benchmarks.probe import Probe, first_after, longest_pause_s, settled_after_s, slowest_s
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.process import RoleProcess
from tests.harness.rabbit import RabbitServer
from tests.harness.server import Guard, start_together

RATE = 1_000
QUIET_S = 3.0
AFTER_S = 25.0
NORMAL_S = 0.5
"""From sending to delivery: longer is not as always."""


class Outages:
    """One fleet, its servers and a probe."""

    def __init__(self, console: Console, fleet: Fleet, rabbit: RabbitServer, maria: MariaServer) -> None:
        self.console, self.fleet, self.rabbit, self.maria = console, fleet, rabbit, maria

    async def run(self, maria_down_s: float, rabbit_down_s: float) -> int:
        await self.fleet.start()
        await asyncio.to_thread(self.rabbit.settle)
        try:
            await self._measured(self._without_its_processor)
            await self._measured(lambda probe: self._without_maria(probe, maria_down_s))
            await self._measured(lambda probe: self._without_rabbit(probe, rabbit_down_s))
            audit = self.fleet.run("audit")
            self.console.print(audit.stdout.strip() or audit.stderr.strip())
            return max(audit.returncode, *(await self.fleet.stop()).values())
        finally:
            self.fleet.kill()

    async def _measured(self, scene: Callable[[Probe], Awaitable[None]]) -> None:
        probe = Probe(self.fleet.of("gateway")[0].port, RATE)
        await probe.open()
        try:
            probe.start()
            await asyncio.sleep(QUIET_S)
            await scene(probe)
        finally:
            await probe.close()

    async def _without_its_processor(self, probe: Probe) -> None:
        active = max(self.fleet.of("processor"), key=cpu_seconds)
        killed = time.monotonic()
        active.kill()
        await asyncio.sleep(QUIET_S)
        await probe.stop()
        active.start()
        await active.ready()
        self._say(
            f"kill -9 of the active processor: deliveries pause for {longest_pause_s(probe.delivered, killed):.2f} s, "
            f"as always {_settled(probe, killed)} after it",
            probe,
        )

    async def _without_maria(self, probe: Probe, down_s: float) -> None:
        before, killed = self._rss(), time.monotonic()
        await asyncio.to_thread(self.maria.kill)
        await asyncio.sleep(down_s)
        after, acked = self._rss(), sum(killed < moment.at for moment in probe.acked)
        await asyncio.to_thread(self.maria.make_ready)
        back = time.monotonic()
        await asyncio.sleep(AFTER_S)
        await probe.stop()
        grown = ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f} MB" for name in before)
        self._say(
            f"MariaDB killed for {down_s:.0f} s: {acked:,} acks and {len(probe.refused):,} refusals meanwhile, "
            f"longest pause between acks {longest_pause_s(probe.acked, killed):.2f} s; as always "
            f"{_settled(probe, back)} after its return; memory {grown}",
            probe,
        )

    async def _without_rabbit(self, probe: Probe, down_s: float) -> None:
        killed = time.monotonic()
        await asyncio.to_thread(self.rabbit.kill)
        await asyncio.sleep(down_s)
        await asyncio.to_thread(self.rabbit.make_ready)
        back = time.monotonic()
        await asyncio.sleep(AFTER_S)
        await probe.stop()
        slowest = slowest_s(probe.sent, [*probe.acked, *probe.refused])
        self._say(
            f"RabbitMQ killed for {down_s:.0f} s: first refusal {_seconds(first_after(probe.refused, killed))} after "
            f"it, slowest answer to any message {slowest:.2f} s; first ack {_seconds(first_after(probe.acked, back))}, "
            f"all as always {_settled(probe, back)} after its return",
            probe,
        )

    def _rss(self) -> dict[str, float]:
        return {role.name: rss_mb(role.pid) for role in self.fleet.roles.values()}

    def _say(self, text: str, probe: Probe) -> None:
        lost = probe.undelivered()
        self.console.print(f"{text}; {len(probe.acked):,} acknowledged in all, {lost} of them not delivered")


def cpu_seconds(role: RoleProcess) -> float:
    """Whoever worked most holds the partitions."""
    return float(sum(psutil.Process(role.pid).cpu_times()[:2]))


def _settled(probe: Probe, since: float) -> str:
    return _seconds(settled_after_s(probe.sent, probe.delivered, since, NORMAL_S))


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


async def bench_outages(console: Console, maria_down_s: float = 60.0, rabbit_down_s: float = 10.0) -> int:
    """Print what each outage cost; the exit code is the worst of the audit and the drains."""
    with Guard() as guard, tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        rabbit, maria = RabbitServer(guard), MariaServer(guard)
        start_together(rabbit, maria)
        console.print("\n[bold]outages[/], gateway and two processors in processes of their own")
        urls = rabbit.url(rabbit.vhost()), maria.url(maria.database())
        fleet = Fleet(Path(directory), *urls, gateways=1, processors=2)
        return await Outages(console, fleet, rabbit, maria).run(maria_down_s, rabbit_down_s)
