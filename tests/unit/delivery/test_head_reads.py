import asyncio

import pytest

from chatflow.domain.delivery.head_reads import LANES, ROOMS_PER_READ, HeadReads
from chatflow.ports.errors import StoreUnavailable
from tests.unit.fakes import cancel, settle


class Store:
    def __init__(self):
        self.asked = []
        self.go_on = asyncio.Event()
        self.error = None

    async def heads(self, rooms):
        self.asked.append(rooms)
        await self.go_on.wait()
        if self.error:
            raise self.error
        return {room: int(room) for room in rooms if room != "0"}


@pytest.fixture
async def store():
    return Store()


def ask(reads, rooms):
    return [asyncio.create_task(reads.of(str(room))) for room in rooms]


async def test_a_room_without_messages_is_at_0(store):
    store.go_on.set()
    assert await HeadReads(store.heads).of("0") == 0


async def test_those_who_ask_in_one_turn_share_a_read(store):
    tasks = ask(HeadReads(store.heads), range(1, 51))
    store.go_on.set()
    assert await asyncio.gather(*tasks) == list(range(1, 51))
    assert store.asked == [[str(room) for room in range(1, 51)]]


async def test_who_asks_while_reads_are_under_way_shares_the_next_one(store):
    reads, tasks = HeadReads(store.heads), []
    for room in range(1, 51):
        tasks += ask(reads, [room])
        await settle()
    assert len(store.asked) == LANES
    store.go_on.set()
    assert await asyncio.gather(*tasks) == list(range(1, 51))
    assert len(store.asked) == LANES + 1


async def test_a_read_asks_for_so_many_rooms_and_no_more(store):
    tasks = ask(HeadReads(store.heads), range(1, 3 * ROOMS_PER_READ))
    store.go_on.set()
    await asyncio.gather(*tasks)
    assert max(map(len, store.asked)) <= ROOMS_PER_READ


async def test_a_read_begins_after_the_question(store):
    reads = HeadReads(store.heads)
    first = ask(reads, range(1, LANES + 2))
    await settle()
    store.go_on.set()
    await asyncio.gather(*first)
    store.asked.clear()
    assert await reads.of("1") == 1
    assert store.asked == [["1"]]


async def test_a_read_that_fails_fails_for_all_who_share_it_and_for_nobody_else(store):
    reads = HeadReads(store.heads)
    tasks = ask(reads, range(1, 10))
    await settle()
    store.error = StoreUnavailable("gone")
    store.go_on.set()
    assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {StoreUnavailable}
    store.error = None
    assert await reads.of("7") == 7


async def test_who_is_cancelled_takes_nobody_along(store):
    tasks = ask(HeadReads(store.heads), range(1, 10))
    await settle()
    await cancel(tasks[5])
    store.go_on.set()
    assert await asyncio.gather(*tasks[:5], *tasks[6:]) == [1, 2, 3, 4, 5, 7, 8, 9]


async def test_a_read_that_nobody_waits_for_any_more_may_fail(store):
    tasks = ask(HeadReads(store.heads), range(1, 10))
    await settle()
    await cancel(*tasks)
    store.error = StoreUnavailable("gone")
    store.go_on.set()
    await settle()
