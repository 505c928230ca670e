"""``make bench``: what chatflow sustains, what an ack costs in time, and where the CPU goes.

The servers are real processes; this process is the load client. All run on the same cores, so compare figures of one
run with each other, not with those of another machine. Nothing here asserts a speed.
"""

import argparse
import os
import platform
import sys

import uvloop
from rich.console import Console

from benchmarks.attacker import ATTACKS, MIX
from benchmarks.audit import bench_audit
from benchmarks.cache_faults import bench_cache_faults
from benchmarks.embedded import bench_embedded
from benchmarks.hostile import Plan, bench_hostile
from benchmarks.mix import bench_mix
from benchmarks.outages import OutageTimes, bench_outages
from benchmarks.reads import bench_reads
from benchmarks.report import Report
from benchmarks.separate import bench_separate
from benchmarks.servers import started

SCENARIOS = ("embedded", "separate", "outages", "reads", "mix", "cache-faults", "hostile", "audit")
PROFILES = ("B0", "O1", "O2", "O12")
UNCACHED = ("B0", "O2")
WHERE = ("up", "fleet")
SMALL_LOG_BYTES, LARGE_LOG_BYTES = 96 * 2**20, 2**30
"""Of the database; large where it is filled before it is measured."""
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


async def run(arguments: argparse.Namespace) -> int:
    """Run the chosen scenarios; 1 when one went wrong or missed a target."""
    profiles = arguments.profile or list(PROFILES)
    console.print(f"{os.cpu_count()} cores for servers and load client, Python {platform.python_version()}")
    reports = [
        report for each in arguments.path or SCENARIOS[:2] for report in await scenario(each, arguments, profiles)
    ]
    return int(any(report.exit_code or report.missed for report in reports))


async def scenario(name: str, arguments: argparse.Namespace, profiles: list[str]) -> list[Report]:
    """Run one, on servers of its own."""
    seconds: float = arguments.seconds
    if name == "embedded":
        return [await bench_embedded(console, seconds)]
    if name == "hostile":
        return await hostile(arguments)
    log_file_bytes = SMALL_LOG_BYTES if name in {"separate", "outages"} else LARGE_LOG_BYTES
    with started(schedulers=2 if name == "outages" else 1, log_file_bytes=log_file_bytes) as servers:
        match name:
            case "separate":
                report = await bench_separate(console, servers, profiles, seconds)
            case "outages":
                report = await bench_outages(console, servers, OutageTimes())
            case "audit":
                report = bench_audit(console, servers.maria, arguments.rows)
            case "reads":
                uncached = [profile for profile in profiles if profile in UNCACHED]
                report = await bench_reads(console, servers.maria, uncached, arguments.rows)
            case "mix":
                report = await bench_mix(console, servers, profiles, seconds)
            case _:
                report = await bench_cache_faults(console, servers, seconds)
        return [report]


async def hostile(arguments: argparse.Namespace) -> list[Report]:
    """Attack `chatflow up`, a fleet, or both."""
    plan = Plan(arguments.attack or list(ATTACKS), arguments.hostile or [1, 10], arguments.seconds)
    reports = []
    for where in arguments.where or WHERE:
        if where == "up":
            reports.append(await bench_hostile(console, None, plan))
        else:
            with started(schedulers=1, log_file_bytes=SMALL_LOG_BYTES) as servers:
                reports.append(await bench_hostile(console, servers, plan))
    return reports


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--path", choices=SCENARIOS, action="append", help="default: embedded and separate")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="not for embedded; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement; not of outages")
    parser.add_argument("--rows", type=int, default=1_000_000, help="messages that reads and audits are measured on")
    parser.add_argument("--where", choices=WHERE, action="append", help="of hostile; default: both")
    parser.add_argument("--attack", choices=(*ATTACKS, MIX), action="append", help="of hostile; default: all")
    parser.add_argument("--hostile", type=int, action="append", help="hostile connections; default: 1 and 10")
    sys.exit(uvloop.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
