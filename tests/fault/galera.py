"""``make galera``: two processors that are both active, each on a Galera node of its own, and every ack audited.

A node rolls a transaction back when it loses the certification against one of the other node's, between any two of its
statements. What a processor counts as a commit must never be the end of what came after that.
"""

import argparse
import asyncio
import re
import shutil
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

import attrs
import uvloop

from tests.fault.clients import LedgerSender
from tests.harness.fleet import Fleet
from tests.harness.galera import GaleraCluster
from tests.harness.rabbit import RabbitServer
from tests.harness.server import Guard

SENDERS = 12
ROOMS = 20
WINDOW = 400
DEADLINE_S = 60.0
RUN_S = 120.0
UNNOTICED = "rolled back unnoticed"
_STORED = re.compile(r"^chatflow_processor_stored_total(?:{[^}]*})? (\S+)$", re.MULTILINE)


@attrs.frozen
class Run:
    """What happened in one run.

    Attributes:
        shares: messages stored by each processor.
        refused: commits that were not of the transaction that was begun.
        said: by the audit.
    """

    acked: int
    stored: int
    shares: list[int]
    refused: int
    code: int
    said: str
    took_s: float

    @property
    def is_sound(self) -> bool:
        return self.code == 0 and self.stored == self.acked

    def __str__(self) -> str:
        shares = " + ".join(f"{share:,}" for share in self.shares)
        return (
            f"acked {self.acked:,} stored {self.stored:,} ({shares}), {self.refused} commits refused, "
            f"took {self.took_s:.0f} s; {self.said}"
        )


async def run_once(directory: Path, rabbit: RabbitServer, cluster: GaleraCluster, messages: int) -> Run:
    """Fill one database from two processors at once."""
    begin = time.monotonic()
    first, second = cluster.nodes
    database, vhost = first.database(), rabbit.vhost()
    fleet = Fleet(directory, rabbit.url(vhost), first.url(database), gateways=1, processors=2)
    fleet.roles["processor-2"].settings |= {"CHATFLOW_DATABASE_URL": second.url(database)}
    ledger_path = directory / "acks.jsonl"
    try:
        await fleet.start()
        await _share_out(rabbit, vhost, fleet)
        with ledger_path.open("w") as ledger:
            acked = await _load(fleet, ledger, messages)
        stored = await _settled(cluster, database, acked)
        shares = [await asyncio.to_thread(_share, role.health_port) for role in fleet.of("processor")]
        codes = await fleet.stop()
        assert not any(codes.values()), f"exit codes of the drain: {codes}"
        audit = await asyncio.to_thread(fleet.run, "audit", "--ledger", str(ledger_path))
    finally:
        fleet.kill()
    said = (audit.stdout.strip() or audit.stderr.strip()).splitlines()
    first.drop(database)
    rabbit.delete_vhost(vhost)
    refused = sum(role.log_text.count(UNNOTICED) for role in fleet.of("processor"))
    return Run(acked, stored, shares, refused, audit.returncode, "\n    ".join(said), time.monotonic() - begin)


async def _share_out(rabbit: RabbitServer, vhost: str, fleet: Fleet) -> None:
    """Give each processor half of the partitions: delete the empty queues while the other one is stopped."""
    names = sorted(name for name in rabbit.queues(vhost) if name.startswith("chatflow.ingest."))
    half = len(names) // 2
    for stopped, share in zip(fleet.of("processor"), (names[:half], names[half:]), strict=True):
        stopped.pause()
        for name in share:
            rabbit.api("DELETE", f"queues/{urllib.parse.quote(vhost, safe='')}/{name}")
        await _consumed(rabbit, vhost, share)
        stopped.resume()


async def _consumed(rabbit: RabbitServer, vhost: str, names: list[str]) -> None:
    """Wait until each of these queues is back and has a consumer."""
    asked = "list_queues", "--vhost", vhost, "--no-table-headers", "name", "consumers"
    async with asyncio.timeout(DEADLINE_S):
        while True:
            listed = await asyncio.to_thread(rabbit.ctl, *asked)
            consumed = {line.split("\t")[0] for line in listed.splitlines() if not line.endswith("\t0")}
            if consumed.issuperset(names):
                return


async def _load(fleet: Fleet, ledger: IO[str], messages: int) -> int:
    urls = [f"ws://127.0.0.1:{gateway.port}/ws" for gateway in fleet.of("gateway")]
    rooms = [f"room.{number}" for number in range(ROOMS)]
    senders = [LedgerSender(user, rooms, urls, ledger, WINDOW, messages // SENDERS) for user in range(1, SENDERS + 1)]
    async with asyncio.timeout(RUN_S), asyncio.TaskGroup() as tasks:
        for sender in senders:
            tasks.create_task(sender.run())
    return sum(sender.acked for sender in senders)


async def _settled(cluster: GaleraCluster, database: str, acked: int) -> int:
    """How much is stored once it is everything, or nothing more comes."""
    deadline, last, since = time.monotonic() + DEADLINE_S, -1, time.monotonic()
    query = "SET SESSION wsrep_sync_wait = 1; SELECT COUNT(*) FROM messages"
    while True:
        stored = int((await asyncio.to_thread(cluster.nodes[0].execute, query, database))[0][0])
        now = time.monotonic()
        if stored != last:
            last, since = stored, now
        if stored >= acked or now > deadline or now - since > 10:
            return stored
        await asyncio.sleep(0.2)


def _share(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        found = _STORED.search(answer.read().decode())
    assert found, "a processor does not say how much it has stored"
    return int(float(found[1]))


async def run(runs: int, messages: int, directory: Path) -> int:
    """Print each run; how many lost something."""
    lost = 0
    with Guard() as guard:
        rabbit = RabbitServer(guard)
        rabbit.start()
        cluster = GaleraCluster.start(guard)
        rabbit.ready()
        for number in range(1, runs + 1):
            done = await run_once(directory / str(number), rabbit, cluster, messages)
            lost += not done.is_sound
            print(f"run {number}: {done}", flush=True)
    print(f"{runs} runs of {messages:,} messages: {lost} lost something")
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(prog="make galera", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--messages", type=int, default=60_000)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chatflow-galera-"))
    lost = uvloop.run(run(arguments.runs, arguments.messages, directory))
    if lost:
        raise SystemExit(f"logs and ledgers are kept in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
