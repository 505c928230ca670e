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

from benchmarks.attacker import ATTACKS
from benchmarks.cache_faults import bench_cache_faults
from benchmarks.embedded import bench_embedded
from benchmarks.hostile import Plan, bench_hostile
from benchmarks.mix import bench_mix
from benchmarks.outages import bench_outages
from benchmarks.reads import bench_reads
from benchmarks.separate import bench_separate

PATHS = ("embedded", "separate", "outages", "reads", "mix", "cache-faults", "hostile")
PROFILES = ("B0", "O1", "O2", "O12")
UNCACHED = ("B0", "O2")
WHERE = ("up", "fleet")
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


async def run(arguments: argparse.Namespace) -> int:
    paths = arguments.path or ["embedded", "separate"]
    profiles = arguments.profile or list(PROFILES)
    seconds: float = arguments.seconds
    console.print(f"{os.cpu_count()} cores for servers and load client, Python {platform.python_version()}")
    worst = 0
    if "embedded" in paths:
        worst = max(worst, await bench_embedded(console, seconds))
    if "separate" in paths:
        worst = max(worst, await bench_separate(console, profiles, seconds))
    if "outages" in paths:
        worst = max(worst, await bench_outages(console))
    if "reads" in paths:
        uncached = [profile for profile in profiles if profile in UNCACHED]
        worst = max(worst, await bench_reads(console, uncached, arguments.rows))
    if "mix" in paths:
        worst = max(worst, await bench_mix(console, profiles, seconds))
    if "cache-faults" in paths:
        worst = max(worst, await bench_cache_faults(console, seconds))
    if "hostile" in paths:
        plan = Plan(arguments.attack or list(ATTACKS), arguments.hostile or [1, 10], seconds)
        worst = max(worst, await bench_hostile(console, arguments.where or WHERE, plan))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--path", choices=PATHS, action="append", help="default: embedded and separate")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="not for embedded; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--rows", type=int, default=1_000_000, help="messages that reads are measured on")
    parser.add_argument("--where", choices=WHERE, action="append", help="of hostile; default: both")
    parser.add_argument("--attack", choices=ATTACKS, action="append", help="of hostile; default: all")
    parser.add_argument("--hostile", type=int, action="append", help="hostile connections; default: 1 and 10")
    sys.exit(uvloop.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
