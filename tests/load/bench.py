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

from tests.load.embedded import bench_embedded
from tests.load.outages import bench_outages
from tests.load.separate import bench_separate

PATHS = ("embedded", "separate", "outages")
PROFILES = ("B0", "O1", "O2", "O12")
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


async def run(paths: list[str], profiles: list[str], seconds: float) -> int:
    console.print(f"{os.cpu_count()} cores for servers and load client, Python {platform.python_version()}")
    worst = 0
    if "embedded" in paths:
        worst = max(worst, await bench_embedded(console, seconds))
    if "separate" in paths:
        worst = max(worst, await bench_separate(console, profiles, seconds))
    if "outages" in paths:
        worst = max(worst, await bench_outages(console))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--path", choices=PATHS, action="append", help="default: embedded and separate")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="for separate processes; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    arguments = parser.parse_args()
    paths = arguments.path or ["embedded", "separate"]
    sys.exit(uvloop.run(run(paths, arguments.profile or list(PROFILES), arguments.seconds)))


if __name__ == "__main__":
    main()
