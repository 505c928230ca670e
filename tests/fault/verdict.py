"""What must be true after a round, whatever happened in it; each raises an AssertionError that says what is not.

Order: a sender repeats everything unacked, oldest first, before anything new, on whichever gateway it reaches. So each
connection is handed a room's messages in order, from the oldest that may be missing, and what is promised for each
connection (stored in the order sent, faults included) makes one order of them all: what an earlier connection's gateway
publishes late is either a duplicate, or comes before everything that was ever taken behind it.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from pathlib import Path

from tests.fault.clients import LedgerSender, Listener
from tests.fault.site import Site

RECOVERY_DEADLINE_S = 60.0
NOTHING_WRONG = "0 missing, 0 doubled, 0 misplaced, 0 gaps, 0 wrong summaries, 0 lost commits"
CLEAN = re.compile(rf"audited (\d+) messages and (\d+) acks: {NOTHING_WRONG}")


async def recovered(site: Site) -> None:
    """Wait until all roles are fit and each sender has got an ack that it did not have before."""
    begin = asyncio.get_running_loop().time()
    unfit: list[str] = []
    silent: list[int] = []
    try:
        async with asyncio.timeout(RECOVERY_DEADLINE_S):
            while True:
                silent = [sender.user_id for sender in site.senders if sender.acked_at < begin]
                unfit = await site.unfit()
                if not silent and not unfit:
                    return
                assert not (ended := site.ended()), f"ended by themselves: {ended}"
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not recovered: {unfit} are unfit, senders {silent} get no ack") from None


async def all_acked(senders: Iterable[LedgerSender], running: Iterable["asyncio.Task[None]"]) -> None:
    """Wait until the senders, who were told to stop, have every ack."""
    try:
        async with asyncio.timeout(RECOVERY_DEADLINE_S):
            await asyncio.gather(*running)
    except TimeoutError:
        unacked = {sender.user_id: len(sender.unacked) for sender in senders if sender.unacked}
        raise AssertionError(f"never acked, by sender: {unacked}") from None


async def all_stored(site: Site, rooms: list[str], sent: int) -> int:
    """Wait until everything sent is stored, or it is late; how many there are in these rooms."""
    deadline = time.monotonic() + RECOVERY_DEADLINE_S
    query = f"SELECT COUNT(*) FROM messages WHERE room_id IN ({listed(rooms)})"
    while True:
        stored = int((await asyncio.to_thread(site.maria.execute, query, site.database))[0][0])
        if stored >= sent or time.monotonic() > deadline:
            return stored
        assert not (ended := site.ended()), f"ended by themselves: {ended}"
        await asyncio.sleep(0.1)


async def in_order(site: Site, rooms: list[str], senders: Iterable[LedgerSender]) -> None:
    """Each sender's messages in each room lie in the order sent, none left out."""
    query = f"SELECT room_id, user_id, LEFT(content, 30) FROM messages WHERE room_id IN ({listed(rooms)}) ORDER BY seq"
    order: dict[tuple[str, int], list[int]] = {}
    for room, user, text in await asyncio.to_thread(site.maria.execute, query, site.database):
        order.setdefault((room, int(user)), []).append(int(text.partition(":")[2].split()[0]))
    for sender in senders:
        for room, last in sender.numbers.items():
            numbers = order.pop((room, sender.user_id), [])
            assert numbers == list(range(1, last + 1)), f"user {sender.user_id} in {room}: {disorder(numbers)}"
    assert not order, f"nobody sent {list(order)}"


def listed(rooms: Iterable[str]) -> str:
    return ", ".join(f"'{room}'" for room in rooms)


def disorder(numbers: list[int]) -> str:
    """The first place where the next number is not the next."""
    at = next((n for n, number in enumerate(numbers, start=1) if number != n), len(numbers) + 1)
    return f"{len(numbers)} stored, around the first that is wrong: {numbers[max(0, at - 4) : at + 4]}"


async def all_heard(listeners: Iterable[Listener], heads: dict[str, int]) -> None:
    """Wait until each listener has its room's last message; each saw every ``seq`` once, in order."""
    for listener in listeners:
        head, seen = heads[listener.room], listener.seen
        try:
            async with asyncio.timeout(RECOVERY_DEADLINE_S):
                while head and (not seen or seen[-1] < head):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"a listener of {listener.room} has {list(seen)[-1:]} of {head}") from None
        assert list(seen) == list(range(1, head + 1)), f"a listener of {listener.room}: {disorder(list(seen))}"


async def audited(site: Site, ledger: Path, acked: int) -> None:
    """The command finds nothing wrong, in everything stored and in all acks so far."""
    printed = await asyncio.to_thread(site.fleet.run, "audit", "--ledger", str(ledger))
    found = CLEAN.search(printed.stdout)
    assert found, f"{printed.stdout}{printed.stderr}"
    assert printed.returncode == 0, printed
    assert int(found[2]) == acked, f"{found[2]} acks audited of {acked}"
