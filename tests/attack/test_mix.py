"""Every attack at once: polite clients are served, nothing they were told is lost, and the memory stays bounded.

How much longer their acks take is measured by `make bench ARGS="--path hostile --attack mix --hostile 200"`, since a
machine that others use says little about it.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.attacker import ATTACKS, MIX
from benchmarks.measure import rss_mb
from tests.fault.clients import LedgerSender
from tests.harness.fleet import Fleet
from tests.harness.process import UpProcess

ROOT = Path(__file__).parents[2]
POLITE, PACE, WINDOW = 20, 10.0, 4
ROOMS = [f"polite-{number}" for number in range(6)]
GROWN_MB = 96.0
"""What a process that has just started also needs for its first load."""

Audit = Callable[..., "subprocess.CompletedProcess[str]"]


async def attack(port: int, connections: int, seconds: float) -> None:
    """All kinds of hostile clients, at the lowest priority."""
    arguments = ("--port", str(port), "--connections", str(connections), "--seconds", str(seconds))
    hostile = await asyncio.create_subprocess_exec(
        *("nice", "-n", "19", sys.executable, "-m", "benchmarks.attacker", MIX, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await hostile.communicate(b"go\n")
    assert hostile.returncode == 0
    assert b"sent_bytes" in said


async def survive(port: int, pid: int, run: Audit, directory: Path, *, connections: int, seconds: float) -> None:
    """Attack while polite clients send, and hold the gateway to what it told them."""
    with (directory / "acks.jsonl").open("w", buffering=1) as ledger:
        urls = [f"ws://127.0.0.1:{port}/ws"]
        senders = [LedgerSender(user, ROOMS, urls, ledger, WINDOW, pace=PACE) for user in range(1, POLITE + 1)]
        sending = asyncio.gather(*(sender.run() for sender in senders))
        try:
            await asyncio.sleep(0.9)
            before_mb, peak_mb = rss_mb(pid), 0.0
            acked = [sender.acked for sender in senders]
            attacking = asyncio.create_task(attack(port, connections, seconds))
            while not attacking.done():
                await asyncio.wait([attacking], timeout=0.1)
                peak_mb = max(peak_mb, rss_mb(pid))
            attacking.result()
            served = [sender.acked - before for sender, before in zip(senders, acked, strict=True)]
        finally:
            for sender in senders:
                sender.stop()
            async with asyncio.timeout(60.0):
                await sending
    assert min(served) > 0, served
    assert [sender.refused for sender in senders] == [0] * POLITE
    assert [sender.connects for sender in senders] == [1] * POLITE
    assert peak_mb - before_mb <= GROWN_MB
    audit = run("audit", "--ledger", str(directory / "acks.jsonl"))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert f"{sum(sender.acked for sender in senders)} acks: 0 missing" in audit.stdout


async def test_polite_clients_are_served_while_all_attacks_go_on_at_once(tmp_path: Path) -> None:
    up = UpProcess(tmp_path)
    up.start()
    try:
        await up.ready()
        await survive(up.gateway_port, up.pid, up.run, tmp_path, connections=3 * len(ATTACKS), seconds=3.0)
    finally:
        code = up.stop()
    assert code == 0
    assert "Traceback" not in up.log_text


@pytest.mark.long
async def test_a_fleet_serves_polite_clients_while_200_hostile_ones_attack_for_a_minute(
    tmp_path: Path, vhost_url: str, maria_url: str, redis_url: str
) -> None:
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=1, processors=1, settings={"CHATFLOW_CACHE_URL": redis_url})
    await fleet.start()
    try:
        gateway = fleet.of("gateway")[0]
        await survive(gateway.port, gateway.pid, fleet.run, tmp_path, connections=200, seconds=60.0)
        codes = await fleet.stop()
    finally:
        fleet.kill()
    assert set(codes.values()) == {0}
