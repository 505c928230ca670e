"""A page put together from what was read, what was heard and what is new is the page that the store would give."""

import asyncio
import random

import msgspec
import pytest

from chatflow.domain.reading import cursors
from chatflow.domain.reading.answers import EncodedRows
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.query import Reading
from chatflow.domain.reading.room_tails import TAIL_S, NewestPage, RoomTails
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import StoreUnavailable
from tests.harness.clock import FakeClock
from tests.reading_fakes import ListStore, encode, encode_row

FRESH_S = 1.0


class Rooms:
    """Tails over a list store; what is written is told to them, unless a test says otherwise."""

    def __init__(self, **options):
        self.clock, self.store, self.policy = FakeClock(), ListStore(), CachePolicy()
        options = {"fresh_s": FRESH_S, "tag_of": self.policy.room_tag} | options
        self.tails = RoomTails(encode, encode_row, self.clock, **options)

    def write(self, count, room="5"):
        return [self.store.add(room) for _ in range(count)]

    def commit(self, count, room="5"):
        stored = self.write(count, room)
        self.tails.hear(self.policy.commit_of(stored))
        return stored

    def page(self, limit, room="5"):
        return NewestPage(room, self.policy.room_tag(room), limit)

    async def read(self, limit, room="5"):
        return seqs(await self.tails.read(self.store, self.page(limit, room)))

    def at_hand(self, limit, room="5"):
        found = self.tails.page(self.page(limit, room))
        return None if found is None else seqs(found[0])

    async def truth(self, limit, room):
        """The page by way of the store alone."""
        rows = await self.store.room_page(room, limit=limit + 1)
        more = cursors.encode_room_cursor(room, rows[limit - 1].seq) if len(rows) > limit else None
        page = EncodedRows(room, limit, [encode_row(row) for row in rows[:limit]], more)
        return Reading(encode(page), rows[0].seq if rows else 0)

    @property
    def reads(self):
        return self.store.calls["room_page"], self.store.calls["room_range"]


def seqs(reading):
    return [row["seq"] for row in msgspec.json.decode(reading.encoded)["messages"]]


@pytest.fixture
def rooms():
    return Rooms()


async def test_after_a_commit_that_was_not_told_only_what_is_new_is_read(rooms):
    rooms.write(20)
    assert await rooms.read(5) == [20, 19, 18, 17, 16]
    rooms.write(2)
    assert await rooms.read(5) == [22, 21, 20, 19, 18]
    assert await rooms.read(5) == [22, 21, 20, 19, 18]
    assert rooms.reads == (1, 2)


async def test_after_commits_that_were_told_nothing_is_read(rooms):
    rooms.write(20)
    assert rooms.at_hand(5) is None
    await rooms.read(5)
    assert rooms.at_hand(5) == [20, 19, 18, 17, 16]
    rooms.commit(1)
    rooms.commit(1, room="6")
    rooms.commit(2)
    assert rooms.at_hand(5) == [23, 22, 21, 20, 19]
    assert rooms.at_hand(2) == [23, 22]
    assert rooms.at_hand(6) is None
    assert rooms.reads == (1, 0)


async def test_any_mix_of_commits_told_or_not_and_of_limits_gives_what_the_store_would():
    dice = random.Random(4)
    rooms = Rooms(limit_bytes=6_000)
    served = 0
    for _ in range(1500):
        room = dice.choice("abc")
        stored = rooms.write(dice.choice([0, 0, 1, 1, 2, 5, 20]), room)
        if stored and dice.random() < 0.8:
            rooms.tails.hear(rooms.policy.commit_of(stored))
        elif stored:
            rooms.tails.hear(Commit((rooms.policy.room_tag(room),)))
        page = rooms.page(dice.choice([1, 2, 5, 12]), room)
        expected = await rooms.truth(page.limit, room)
        found = rooms.tails.page(page)
        if found is not None:
            served += 1
            assert found[0] == expected
        if dice.random() < 0.5:
            assert await rooms.tails.read(rooms.store, page) == expected
        rooms.clock.advance(dice.choice([0, 0, 0, 0.1, 1, 20]))
        assert 0 <= rooms.tails.held_bytes <= 6_000
    assert served > 200


async def test_a_gap_in_what_was_heard_ends_it_until_the_store_is_asked(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.write(1)
    rooms.commit(1)
    assert rooms.at_hand(5) is None
    assert await rooms.read(5) == [12, 11, 10, 9, 8]
    assert rooms.at_hand(5) == [12, 11, 10, 9, 8]
    assert rooms.reads == (1, 1)


async def test_a_commit_heard_twice_or_late_changes_nothing(rooms):
    rooms.write(10)
    await rooms.read(5)
    early, late = rooms.policy.commit_of(rooms.write(1)), rooms.policy.commit_of(rooms.write(1))
    rooms.tails.hear(late)
    rooms.tails.hear(early)
    assert rooms.at_hand(5) is None
    assert await rooms.read(5) == [12, 11, 10, 9, 8]
    rooms.tails.hear(early)
    rooms.tails.hear(late)
    assert rooms.at_hand(5) == [12, 11, 10, 9, 8]


async def test_a_redelivered_batch_that_is_new_in_part_is_told_apart(rooms):
    rooms.write(10)
    await rooms.read(5)
    known = rooms.store.rows[-2:]
    rooms.tails.hear(rooms.policy.commit_of([*known, *rooms.write(2)]))
    assert rooms.at_hand(5) == [12, 11, 10, 9, 8]


async def test_anything_may_have_been_committed_while_nobody_listened(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.tails.hear(None)
    assert rooms.at_hand(5) is None


async def test_without_a_word_it_is_current_for_a_second_and_a_commit_confirms_it(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.clock.advance(0.75)
    assert rooms.tails.page(rooms.page(5))[1] == FRESH_S - 0.75
    rooms.commit(1)
    rooms.clock.advance(0.75)
    assert rooms.tails.page(rooms.page(5))[1] == FRESH_S - 0.75
    rooms.clock.advance(0.25)
    assert rooms.at_hand(5) is None
    rooms.commit(1)
    assert rooms.at_hand(5) == [12, 11, 10, 9, 8]


@pytest.mark.parametrize("told", [True, False])
async def test_a_commit_while_the_store_is_read_is_not_missed(rooms, told):
    rooms.write(10)
    rooms.store.gate.clear()
    reading = asyncio.create_task(rooms.read(5))
    await asyncio.sleep(0)
    stored = rooms.write(2)
    rooms.tails.hear(rooms.policy.commit_of(stored) if told else Commit(("room:5",)))
    rooms.store.gate.set()
    assert await reading == ([12, 11, 10, 9, 8] if told else [10, 9, 8, 7, 6])
    assert rooms.at_hand(5) == ([12, 11, 10, 9, 8] if told else None)


async def test_what_is_heard_while_the_store_is_read_is_counted_once(rooms):
    rooms.write(10)
    rooms.store.gate.clear()
    reading = asyncio.create_task(rooms.read(5))
    await asyncio.sleep(0)
    rooms.commit(2)
    rooms.store.gate.set()
    await reading
    assert rooms.tails.held_bytes == sum(len(encode_row(stored)) for stored in rooms.store.rows[-6:])


async def test_silence_while_the_store_is_read_leaves_it_to_be_asked_again(rooms):
    rooms.write(10)
    rooms.store.gate.clear()
    reading = asyncio.create_task(rooms.read(5))
    await asyncio.sleep(0)
    rooms.tails.hear(None)
    rooms.commit(1)
    rooms.store.gate.set()
    assert await reading == [10, 9, 8, 7, 6]
    assert rooms.at_hand(5) is None


async def test_a_room_that_went_on_by_more_than_a_page_is_read_as_a_page(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.write(6)
    assert await rooms.read(5) == [16, 15, 14, 13, 12]
    assert rooms.reads == (2, 1)


async def test_a_longer_page_than_what_is_kept_is_read_unless_the_room_has_no_more(rooms):
    rooms.write(4)
    await rooms.read(2)
    assert rooms.at_hand(4) is None
    assert await rooms.read(4) == [4, 3, 2, 1]
    assert rooms.reads == (2, 0)
    assert rooms.at_hand(100) == [4, 3, 2, 1]
    rooms.commit(3)
    assert rooms.at_hand(100) == [7, 6, 5, 4, 3, 2, 1]


async def test_a_room_that_is_kept_whole_may_grow_to_a_longer_page(rooms):
    rooms.write(3)
    await rooms.read(2)
    rooms.write(2)
    assert await rooms.read(100) == [5, 4, 3, 2, 1]
    assert rooms.reads == (1, 1)


async def test_a_shorter_page_leaves_the_longer_one_kept(rooms):
    rooms.write(50)
    await rooms.read(40)
    await rooms.read(2)
    rooms.write(1)
    assert await rooms.read(40) == list(range(51, 11, -1))
    assert rooms.reads == (1, 2)


async def test_no_more_is_kept_than_the_longest_page_needs(rooms):
    rooms.write(50)
    await rooms.read(10)
    before = rooms.tails.held_bytes
    for _ in range(100):
        rooms.commit(1)
    assert rooms.tails.held_bytes <= before * 1.1


async def test_an_old_tail_is_read_anew(rooms):
    rooms.write(10)
    await rooms.read(5)
    for _ in range(3):
        rooms.clock.advance(TAIL_S / 3)
        await rooms.read(5)
    assert rooms.reads == (2, 2)


async def test_a_room_that_nobody_reads_is_not_kept_up_for_ever(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.clock.advance(TAIL_S)
    rooms.commit(1)
    assert rooms.tails.held_bytes == 0


async def test_what_is_kept_is_bounded_and_the_least_recently_read_room_goes_first():
    size = len(encode_row(ListStore().add("a")))
    rooms = Rooms(limit_bytes=25 * size)
    for room in "abc":
        rooms.write(20, room)
    await rooms.read(9, "a")
    await rooms.read(9, "b")
    assert rooms.at_hand(9, "a")
    await rooms.read(9, "c")
    assert [rooms.at_hand(9, room) is None for room in "abc"] == [False, True, False]


async def test_a_page_above_the_bound_is_answered_and_not_kept():
    rooms = Rooms(limit_bytes=300)
    rooms.write(10)
    assert await rooms.read(5) == [10, 9, 8, 7, 6]
    assert rooms.tails.held_bytes == 0


async def test_a_room_that_outgrows_the_bound_by_what_it_hears_is_let_go():
    size = len(encode_row(ListStore().add("5")))
    rooms = Rooms(limit_bytes=8 * size)
    rooms.write(3)
    await rooms.read(100)
    for _ in range(10):
        rooms.commit(1)
    assert rooms.tails.held_bytes == 0
    assert await rooms.read(100) == list(range(13, 0, -1))


async def test_an_empty_room_is_asked_for_again(rooms):
    assert await rooms.read(5) == []
    rooms.write(1)
    assert await rooms.read(5) == [1]


async def test_readers_at_the_same_time_do_not_spoil_what_is_kept(rooms):
    rooms.write(30)
    await rooms.read(10)
    rooms.store.gate.clear()
    first = asyncio.create_task(rooms.read(10))
    await asyncio.sleep(0)
    rooms.write(3)
    second = asyncio.create_task(rooms.read(3))
    await asyncio.sleep(0)
    rooms.store.gate.set()
    assert (await first)[0] in (30, 33)
    assert await second == [33, 32, 31]
    assert await rooms.read(10) == list(range(33, 23, -1))


async def test_a_failure_of_the_store_reaches_the_caller_and_leaves_nothing_under_way(rooms):
    rooms.write(10)
    await rooms.read(5)
    rooms.store.error = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await rooms.read(5)
    assert not rooms.tails._readings


async def test_what_the_page_says_does_not_depend_on_how_it_was_come_by(rooms):
    rooms.write(7)
    read = await rooms.tails.read(rooms.store, rooms.page(5))
    assert read == await rooms.truth(5, "5")
    rooms.commit(1)
    assert rooms.tails.page(rooms.page(5))[0] == await rooms.truth(5, "5")
