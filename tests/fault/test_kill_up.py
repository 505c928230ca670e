"""SIGKILL at any moment: nothing acknowledged is lost, doubled or reordered, and anyone can prove it by the audit."""

import asyncio
import contextlib
import math
import random
import re
import sqlite3
import time
from pathlib import Path

import pytest

from chatflow.entrypoints.cli.maintenance import run_audit
from chatflow.entrypoints.settings import load_settings
from tests.fault.clients import LedgerSender, Listener
from tests.harness.process import UpProcess

ROOMS = [f"fault-{number}" for number in range(6)]
CLEAN = re.compile(
    r"audited (\d+) messages and (\d+) acks: 0 missing, 0 doubled, 0 misplaced, 0 gaps, 0 wrong summaries"
)


def stored_texts(database: Path) -> dict[tuple[str, int], list[int]]:
    """The numbers that each sender's messages carry, by room and user, in ``seq`` order."""
    order: dict[tuple[str, int], list[int]] = {}
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT room_id, user_id, content FROM messages ORDER BY room_id, seq")
        for room, user, text in rows:
            order.setdefault((room, user), []).append(int(text.partition(":")[2]))
    return order


async def kill_rounds(
    tmp_path: Path, rounds: int, seed: int, *, audit_every: int = 1, within_s: float = math.inf
) -> None:
    """Kill again and again under load, and audit.

    Args:
        rounds: kills.
        seed: of the times between them.
        audit_every: kills; each audit covers all that came before, so fewer find as much, only later.
        within_s: no kill later than this, however few they were.
    """
    chance = random.Random(seed)
    give_up_at = time.monotonic() + within_s
    up = UpProcess(tmp_path / "data", {"CHATFLOW_REPLAY_LIMIT": "1000000"})
    ledger_path = tmp_path / "acks.jsonl"
    url = f"ws://127.0.0.1:{up.gateway_port}/ws"
    with ledger_path.open("w", buffering=1) as ledger:
        senders = [LedgerSender(user, ROOMS, [url], ledger) for user in range(1, 9)]
        listener = Listener(ROOMS[0], [url])
        up.start()
        await up.ready()
        tasks = [asyncio.create_task(each.run()) for each in (*senders, listener)]
        try:
            audited = kills = 0
            while kills < rounds and time.monotonic() < give_up_at:
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                up.kill()
                kills += 1
                if kills % audit_every == 0:
                    ledger.flush()
                    audited = await check_audit(up, ledger_path, f"kill {kills}", audited)
                up.start()
                await up.ready()
            for sender in senders:
                sender.stop()
            async with asyncio.timeout(60):
                await asyncio.gather(*tasks[:-1])
            ledger.flush()
            total = await check_audit(up, ledger_path, "the end", audited)
            printed = up.run("audit", "--ledger", str(ledger_path))
            assert CLEAN.search(printed.stdout), printed
            assert printed.returncode == 0
            await see_everything(up, listener)
        finally:
            listener.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            code = up.stop()
    assert code == 0, up.log_text[-2000:]
    assert sum(sender.acked for sender in senders) == total
    assert min(sender.connects for sender in senders) > kills // 2, "the kills did not meet the senders"
    for (room, user), numbers in stored_texts(up.data_dir / "chatflow.db").items():
        assert numbers == list(range(1, len(numbers) + 1)), f"user {user} in {room} was stored out of order"


async def check_audit(up: UpProcess, ledger: Path, moment: str, at_least: int) -> int:
    """The acks audited; each kill must leave no fewer of them than the one before."""
    common = load_settings("tool", up.environ | {"CHATFLOW_LOG_LEVEL": "error"}, dotenv=None).common
    report = await run_audit(common, ledger)
    assert report.is_clean, f"after {moment}: {report}"
    assert report.acks >= at_least > -1, moment
    assert report.messages >= report.acks
    return report.acks


async def see_everything(up: UpProcess, listener: Listener) -> None:
    head = (await up.get(f"/api/messages/room?roomId={listener.room}&limit=1"))["messages"][0]["seq"]  # type: ignore[index]
    async with asyncio.timeout(30):
        while not listener.seen or listener.seen[-1] < head:
            await asyncio.sleep(0.05)
    assert list(listener.seen) == list(range(1, head + 1)), "a listener missed, doubled or reordered a message"


@pytest.mark.timeout(300)
async def test_three_kills_in_a_row_lose_double_and_reorder_nothing(tmp_path: Path) -> None:
    await kill_rounds(tmp_path, rounds=3, seed=20261124)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_hundred_kills_in_a_row_lose_double_and_reorder_nothing(tmp_path: Path) -> None:
    """A hundred if the machine can in five minutes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    await kill_rounds(tmp_path, rounds=100, seed=seed, audit_every=10, within_s=300)
