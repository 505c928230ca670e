"""A page put together from what was read before and what is new is the page that the store would give."""

import asyncio
import random

import pytest

from chatflow.domain.room_tails import TAIL_S, RoomTails
from chatflow.ports.errors import StoreUnavailable
from tests.reading_fakes import FakeClock, ListStore


class Rooms:
    def __init__(self, **options):
        self.clock, self.store = FakeClock(), ListStore()
        self.tails = RoomTails(self.store, self.clock, **options)

    def write(self, count, room="5"):
        for _ in range(count):
            self.store.add(room)

    async def seqs(self, limit, room="5"):
        return [message.seq for message in await self.tails.newest(room, limit)]

    @property
    def reads(self):
        return self.store.calls["room_page"], self.store.calls["room_range"]


@pytest.fixture
def rooms():
    return Rooms()


async def test_after_a_commit_only_what_is_new_is_read(rooms):
    rooms.write(20)
    assert await rooms.seqs(5) == [20, 19, 18, 17, 16]
    rooms.write(2)
    assert await rooms.seqs(5) == [22, 21, 20, 19, 18]
    assert await rooms.seqs(5) == [22, 21, 20, 19, 18]
    assert rooms.reads == (1, 2)


async def test_any_mix_of_writes_and_limits_gives_what_the_store_would(rooms):
    dice = random.Random(4)
    for _ in range(400):
        room = dice.choice("abc")
        rooms.write(dice.choice([0, 0, 1, 2, 7, 30]), room)
        limit = dice.choice([1, 2, 5, 20, 101])
        assert await rooms.tails.newest(room, limit) == tuple(await rooms.store.room_page(room, limit=limit))
        rooms.clock.advance(dice.choice([0, 1, 20]))


async def test_a_room_that_went_on_by_more_than_a_page_is_read_as_a_page(rooms):
    rooms.write(10)
    await rooms.seqs(5)
    rooms.write(5)
    assert await rooms.seqs(5) == [15, 14, 13, 12, 11]
    assert rooms.reads == (2, 1)


async def test_a_longer_page_than_what_is_kept_is_read_unless_the_room_has_no_more(rooms):
    rooms.write(4)
    await rooms.seqs(2)
    assert await rooms.seqs(4) == [4, 3, 2, 1]
    assert rooms.reads == (2, 0)
    assert await rooms.seqs(100) == [4, 3, 2, 1]
    assert rooms.reads == (2, 1)


async def test_a_shorter_page_leaves_the_longer_one_kept(rooms):
    rooms.write(50)
    await rooms.seqs(40)
    await rooms.seqs(2)
    rooms.write(1)
    assert await rooms.seqs(40) == list(range(51, 11, -1))
    assert rooms.reads == (1, 2)


async def test_an_old_tail_is_read_anew(rooms):
    rooms.write(10)
    await rooms.seqs(5)
    for _ in range(3):
        rooms.clock.advance(TAIL_S / 3)
        await rooms.seqs(5)
    assert rooms.reads == (2, 2)


async def test_what_is_kept_is_bounded_and_the_least_recently_read_room_goes_first():
    rooms = Rooms(limit_messages=20)
    for room in "abc":
        rooms.write(10, room)
    for room in ("a", "b", "a", "c"):
        await rooms.seqs(10, room)
    assert rooms.tails.held == 20
    before = rooms.reads[0]
    await rooms.seqs(10, "a")
    assert rooms.reads[0] == before
    await rooms.seqs(10, "b")
    assert rooms.reads[0] == before + 1


async def test_a_page_above_the_bound_is_answered_and_not_kept():
    rooms = Rooms(limit_messages=3)
    rooms.write(10)
    assert await rooms.seqs(5) == [10, 9, 8, 7, 6]
    assert rooms.tails.held == 0


async def test_an_empty_room_is_asked_for_again(rooms):
    assert await rooms.seqs(5) == []
    rooms.write(1)
    assert await rooms.seqs(5) == [1]


async def test_readers_at_the_same_time_do_not_spoil_what_is_kept(rooms):
    rooms.write(30)
    await rooms.seqs(10)
    rooms.store.gate.clear()
    first = asyncio.create_task(rooms.seqs(10))
    await asyncio.sleep(0)
    rooms.write(3)
    second = asyncio.create_task(rooms.seqs(3))
    await asyncio.sleep(0)
    rooms.store.gate.set()
    assert (await first)[0] == 30
    assert await second == [33, 32, 31]
    assert await rooms.seqs(10) == list(range(33, 23, -1))


async def test_a_failure_of_the_store_reaches_the_caller(rooms):
    rooms.write(10)
    await rooms.seqs(5)
    rooms.store.error = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await rooms.seqs(5)
