"""What every store promises: one row per id and sender, gapless rooms, exact counts, complete pages."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

import attrs
import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from chatflow.domain.messages.rooms import partition_of
from chatflow.ports.errors import RowRejected, SequenceCollision
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import (
    ActivityCursor,
    Analytics,
    Finding,
    HourCount,
    MinuteCount,
    RoomCount,
    TimeWindow,
    UserCount,
    UserCursor,
    UserRoom,
)
from tests.contract.store_cases import (
    MARIADB,
    MEMORY,
    MINUTE_US,
    NOW_US,
    SQLITE,
    Row,
    Stack,
    by_room,
    crowd,
    history_order,
    maria_backend,
    memory_backend,
    message,
    newest_first,
    sqlite_backend,
)
from tests.contract.store_maria import maria_schemas

__all__ = ["maria_schemas"]

ABSENT = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(params=[MEMORY, *SQLITE, *MARIADB])
def make_backend(request):
    """Makes an empty, migrated backend in a directory; on MariaDB there is one at a time."""
    if request.param == MEMORY:
        return lambda _: memory_backend()
    if request.param in SQLITE:
        return lambda directory: sqlite_backend(directory, summaries=SQLITE[request.param])
    request.getfixturevalue("maria_server").make_ready()
    schemas = request.getfixturevalue("maria_schemas")
    return lambda _: maria_backend(schemas.emptied(), **MARIADB[request.param])


@pytest.fixture
async def stack(make_backend, tmp_path):
    async with make_backend(tmp_path).open() as opened:
        yield opened


def raw_of(stack: Stack) -> Callable[[str], list[Row]]:
    """SQL past the store under test."""
    if stack.raw is None:
        pytest.skip("a store in memory has no second way to its rows")
    return stack.raw


async def append(stack: Stack, *messages: Message) -> list[StoredMessage]:
    return list((await stack.store.append_batch(messages)).stored)


async def assert_sound(stack: Stack, total: int) -> None:
    assert await stack.auditor.recount(summaries=stack.summaries) == (total, [])


# --- appending


async def test_messages_are_numbered_per_room_in_arrival_order(stack):
    batch = [message("a"), message("b"), message("a"), message("a"), message("b")]
    appended = await stack.store.append_batch(batch)
    assert [each.message for each in appended.stored] == batch
    assert [each.seq for each in appended.stored] == [1, 1, 2, 3, 2]
    assert appended.duplicates == 0


async def test_numbers_go_on_where_the_last_batch_ended(stack):
    await append(stack, message("a"), message("a"))
    assert [each.seq for each in await append(stack, message("a"), message("b"))] == [3, 1]


async def test_an_empty_batch_stores_nothing(stack):
    appended = await stack.store.append_batch([])
    assert (appended.stored, appended.duplicates) == ((), 0)
    await assert_sound(stack, 0)


async def test_every_field_survives_and_the_raw_row_holds_it(stack):
    raw = raw_of(stack)
    sent = message("Room_1.x-y", 2**53 - 1, "\u00fc \N{GRINNING FACE} \"'\\\n", message_type="JOIN", client_ip="::1")
    await append(stack, sent)
    assert await stack.reader.room_page("Room_1.x-y", limit=1) == [StoredMessage(sent, 1)]
    columns = "lower(hex(message_id)), room_id, seq, user_id, username, content, message_type, server_id, client_ip"
    assert raw(f"SELECT {columns} FROM messages") == [
        (
            sent.message_id.replace("-", ""),
            "Room_1.x-y",
            1,
            2**53 - 1,
            sent.username,
            sent.text,
            "JOIN",
            sent.server_id,
            "::1",
        )
    ]


async def test_a_nul_character_does_not_cut_a_text_short(stack):
    await append(stack, message("a", text="before\0after"))
    assert (await stack.reader.room_page("a", limit=1))[0].message.text == "before\0after"


async def test_rooms_that_differ_in_case_are_different_rooms(stack):
    await append(stack, message("Room"), message("room"), message("ROOM"))
    assert await stack.reader.heads(["Room", "room", "ROOM"]) == {"Room": 1, "room": 1, "ROOM": 1}


@pytest.mark.parametrize("users", [3, 30])
async def test_rooms_that_differ_in_case_have_counts_of_their_own(stack, users):
    rooms = ["Room", "room", "ROOM"]
    await append(stack, *[message(room) for room in rooms])
    await append(stack, *[message(room, user) for user in range(1, users + 1) for room in rooms])
    await assert_sound(stack, 3 + 3 * users)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 65, 2048, 2049, 4500])
async def test_batches_of_every_size_arrive_whole(stack, size):
    batch = [message(f"r{number % 7}", number % 50 + 1) for number in range(size)]
    assert [each.message for each in await append(stack, *batch)] == batch
    await assert_sound(stack, size)


# --- duplicates


async def test_a_batch_stored_before_comes_back_as_it_was_stored(stack):
    batch = [message("a"), message("b"), message("a")]
    first = await stack.store.append_batch(batch)
    again = await stack.store.append_batch(batch)
    assert again.stored == first.stored
    assert again.duplicates == 3
    await assert_sound(stack, 3)


async def test_new_messages_among_duplicates_are_stored_in_order(stack):
    old = [message("a"), message("a")]
    await append(stack, *old)
    fresh = [message("a"), message("b"), message("a")]
    appended = await stack.store.append_batch([fresh[0], old[1], fresh[1], old[0], fresh[2]])
    assert [(each.message, each.seq) for each in appended.stored] == [
        (fresh[0], 3),
        (old[1], 2),
        (fresh[1], 1),
        (old[0], 1),
        (fresh[2], 4),
    ]
    assert appended.duplicates == 2
    await assert_sound(stack, 5)


async def test_an_id_twice_in_one_batch_is_stored_once(stack):
    first = message("a", text="first")
    appended = await stack.store.append_batch([first, message("a"), attrs.evolve(first, text="second")])
    assert [each.seq for each in appended.stored] == [1, 2]
    assert appended.stored[0].message.text == "first"
    assert appended.duplicates == 1
    await assert_sound(stack, 2)


async def test_an_id_stored_in_another_room_is_a_duplicate_of_that_row(stack):
    original = message("a", text="original")
    await append(stack, original)
    appended = await stack.store.append_batch([attrs.evolve(original, room_id="b", text="changed"), message("b")])
    assert appended.stored[0] == StoredMessage(original, 1)
    assert appended.stored[1].seq == 1
    assert await stack.reader.heads(["a", "b"]) == {"a": 1, "b": 1}
    await assert_sound(stack, 2)


async def test_an_id_that_two_users_gave_names_a_message_of_each(stack):
    mine = message("a", 7)
    theirs = [
        attrs.evolve(mine, user_id=8, username="user8"),
        attrs.evolve(mine, user_id=9, username="user9", room_id="b", text="another text"),
    ]
    await append(stack, mine)
    appended = await stack.store.append_batch(theirs)
    assert [(each.message, each.seq) for each in appended.stored] == [(theirs[0], 2), (theirs[1], 1)]
    assert appended.duplicates == 0
    again = await stack.store.append_batch([*theirs, mine, message("a")])
    assert [(each.message, each.seq) for each in again.stored[:3]] == [(theirs[0], 2), (theirs[1], 1), (mine, 1)]
    assert (again.stored[3].seq, again.duplicates) == (3, 3)
    keys = [each.key for each in (mine, *theirs)]
    found = await stack.reader.locate([*keys, (mine.message_id, 10), (mine.message_id, 2**70)])
    assert {key: row.seq for key, row in found.items()} == dict(zip(keys, (1, 2, 1), strict=True))
    await assert_sound(stack, 4)


async def test_an_id_that_two_users_gave_in_one_batch_or_at_once_names_a_message_of_each(stack):
    first = message("a", 7)
    shared = [attrs.evolve(first, user_id=user) for user in (7, 8, 9, 10)]
    appended = await stack.store.append_batch([*shared[:2], shared[0]])
    assert [(each.message, each.seq) for each in appended.stored] == [(shared[0], 1), (shared[1], 2)]
    assert appended.duplicates == 1
    answers = await asyncio.gather(*(stack.store.append_batch([each, message("b")]) for each in shared))
    assert [answer.stored[0].message for answer in answers] == shared
    assert [answer.duplicates for answer in answers] == [1, 1, 0, 0]
    assert {answer.stored[0].seq for answer in answers[2:]} == {3, 4}
    await assert_sound(stack, 8)


async def test_a_batch_of_old_and_new_senders_of_one_id_is_told_apart(stack):
    old = [message("a", user) for user in (7, 8)]
    await append(stack, *old)
    swapped = [attrs.evolve(old[0], user_id=8), attrs.evolve(old[1], user_id=7)]
    stored = await append(stack, *old, *swapped)
    assert [(each.message, each.seq) for each in stored] == [
        (old[0], 1),
        (old[1], 2),
        (swapped[0], 3),
        (swapped[1], 4),
    ]
    await assert_sound(stack, 4)


async def test_an_id_in_capitals_is_the_same_id(stack):
    original = message("a")
    shouted = attrs.evolve(original, message_id=original.message_id.upper())
    appended = await stack.store.append_batch([original, shouted])
    assert (len(appended.stored), appended.duplicates) == (1, 1)


async def test_two_processes_storing_the_same_messages_store_each_once(make_backend, tmp_path):
    backend = make_backend(tmp_path)
    batches = [[message(f"r{number % 3}", number % 4 + 1) for number in range(40)] for _ in range(6)]
    async with backend.open() as one, backend.open() as two:
        backwards = list(reversed(batches))
        calls = [each.store.append_batch(batch) for each, own in ((one, batches), (two, backwards)) for batch in own]
        answers = await asyncio.gather(*calls)
        seqs: dict[str, int] = {}
        for answer in answers:
            for each in answer.stored:
                assert seqs.setdefault(each.message.message_id, each.seq) == each.seq
        assert sum(answer.duplicates for answer in answers) == 240
        await assert_sound(one, 240)


async def test_one_room_written_by_many_callers_at_once_has_no_gap_and_keeps_each_callers_order(stack):
    batches = [[message("a", number + 1) for _ in range(7)] for number in range(20)]
    answers = await asyncio.gather(*(stack.store.append_batch(batch) for batch in batches))
    for answer, batch in zip(answers, batches, strict=True):
        assert [each.message for each in answer.stored] == batch
        seqs = [each.seq for each in answer.stored]
        assert seqs == sorted(seqs)
    assert sorted(each.seq for answer in answers for each in answer.stored) == list(range(1, 141))
    await assert_sound(stack, 140)


async def test_neighbours_do_not_suffer_from_a_batch_that_fails(stack):
    shared = message("s")
    calls = [
        stack.store.append_batch([message("a"), message("a")]),
        stack.store.append_batch([message("b", text="x" * 4001)]),
        stack.store.append_batch([shared]),
        stack.store.append_batch([message("c"), shared]),
    ]
    good, bad, one, two = await asyncio.gather(*calls, return_exceptions=True)
    assert len(good.stored) == 2
    assert isinstance(bad, RowRejected)
    assert one.stored[0] == two.stored[1] == StoredMessage(shared, 1)
    assert one.duplicates + two.duplicates == 1
    await assert_sound(stack, 4)


# --- what cannot be stored

POISON = {
    "long text": {"text": "x" * 4001},
    "long username": {"username": "x" * 65},
    "long room": {"room": "r" * 65},
    "empty room": {"room": ""},
    "no room": {"room": None},
    "a blank behind the room": {"room": "a "},
    "room in another alphabet": {"room": "\u00fc"},
    "lone surrogate": {"text": "\ud800"},
    "lone surrogate in the room": {"room": "\ud800"},
    "user id out of range": {"user": 2**70},
    "user id zero": {"user": 0},
    "no user id": {"user": None},
    "a user id that is a list": {"user": [7]},
    "no text": {"text": None},
    "a text that is a list": {"text": ["hi"]},
    "time out of range": {"sent_at_us": 2**62},
    "time before 1970": {"at": -1},
    "id that is no id": {"message_id": "zz"},
    "short id": {"message_id": "ab"},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
async def test_a_row_that_cannot_be_stored_is_rejected_with_its_batch_and_harms_nothing(stack, fields):
    good = [message("a"), message("a")]
    with pytest.raises(RowRejected):
        await stack.store.append_batch([good[0], message(**fields), good[1]])
    await assert_sound(stack, 0)
    assert [each.seq for each in await append(stack, *good)] == [1, 2]
    await assert_sound(stack, 2)


async def test_a_number_that_is_taken_above_the_head_is_loud(stack):
    raw = raw_of(stack)
    await append(stack, message("a"), message("a"))
    raw("UPDATE room_heads SET last_seq = 1")
    with pytest.raises(SequenceCollision):
        await append(stack, message("a"))
    assert raw("SELECT count(*), max(seq) FROM messages") == [(2, 2)]


async def test_a_dead_letter_keeps_its_original_whatever_is_wrong_with_it(stack):
    bad = message("\ud800", text="lone \ud800 surrogate")
    await stack.store.add_dead_letter(bad, "text: \ud800 is no character")
    (letter,) = await stack.box.list_dead(limit=10)
    assert letter.message_id == bad.message_id
    assert Message(**json.loads(letter.message_json)) == bad
    assert "no character" in letter.error_reason
    assert (letter.retry_count, letter.created_at_us, letter.last_retry_us, letter.resolved) == (0, NOW_US, None, False)
    assert await stack.box.get_dead(letter.id) == letter


async def test_adding_a_dead_letter_twice_keeps_one(stack):
    bad = message()
    await stack.store.add_dead_letter(bad, "first")
    await stack.store.add_dead_letter(bad, "second")
    assert [letter.error_reason for letter in await stack.box.list_dead(limit=10)] == ["second"]


async def test_a_dead_letter_takes_no_other_users_place(stack):
    bad = message(user=7)
    for each in (bad, attrs.evolve(bad, user_id=8), attrs.evolve(bad, user_id=2**70), bad):
        await stack.store.add_dead_letter(each, "bad")
    letters = await stack.box.list_dead(limit=10)
    assert [(letter.message_id, letter.user_id) for letter in letters] == [
        (bad.message_id, "7"),
        (bad.message_id, "8"),
        (bad.message_id, str(2**70)),
    ]
    assert [json.loads(letter.message_json)["user_id"] for letter in letters] == [7, 8, 2**70]


async def test_a_retried_letter_is_counted_and_a_resolved_one_leaves_the_list(stack):
    bad = [message(), message()]
    for each in bad:
        await stack.store.add_dead_letter(each, "bad")
    first, second = await stack.box.list_dead(limit=10)
    await stack.box.mark_retried(first.id, resolved=False)
    await stack.box.mark_retried(first.id, resolved=True)
    assert await stack.box.list_dead(limit=10) == [second]
    settled, _ = await stack.box.list_dead(limit=10, include_resolved=True)
    assert (settled.retry_count, settled.last_retry_us, settled.resolved) == (2, NOW_US + 1, True)


async def test_a_resolved_letter_that_comes_back_is_open_again(stack):
    bad = message()
    await stack.store.add_dead_letter(bad, "bad")
    (letter,) = await stack.box.list_dead(limit=1)
    await stack.box.mark_retried(letter.id, resolved=True)
    await stack.store.add_dead_letter(bad, "still bad")
    (letter,) = await stack.box.list_dead(limit=1)
    assert (letter.error_reason, letter.retry_count, letter.resolved) == ("still bad", 1, False)


async def test_messages_without_an_id_are_dead_lettered_side_by_side(stack):
    await stack.store.add_dead_letter(message(message_id=""), "no id")
    await stack.store.add_dead_letter(message(message_id=""), "no id either")
    assert [letter.message_id for letter in await stack.box.list_dead(limit=10)] == ["", ""]


async def test_there_is_no_letter_under_an_unknown_number(stack):
    assert await stack.box.get_dead(12345) is None


# --- pages


async def test_room_pages_visit_every_message_once_newest_first(stack):
    stored = by_room(await append(stack, *crowd(200)))
    for room, expected in stored.items():
        seen: list[StoredMessage] = []
        while page := await stack.reader.room_page(room, limit=7, before_seq=seen[-1].seq if seen else None):
            seen += page
        assert seen == newest_first(expected)


async def test_a_room_range_goes_on_after_what_was_seen(stack):
    stored = by_room(await append(stack, *crowd(60)))["r1"]
    assert await stack.reader.room_range("r1", after_seq=0, limit=1000) == stored
    assert await stack.reader.room_range("r1", after_seq=4, limit=3) == stored[4:7]
    assert await stack.reader.room_range("r1", after_seq=len(stored), limit=3) == []


async def test_user_pages_visit_every_message_once_through_ties(stack):
    stored = await append(stack, *crowd(300))
    for user in range(1, 6):
        seen: list[StoredMessage] = []
        while page := await stack.reader.user_page(user, limit=4, before=cursor_after(seen)):
            seen += page
        assert seen == history_order(each for each in stored if each.message.user_id == user)


def cursor_after(seen: list[StoredMessage]) -> UserCursor | None:
    if not seen:
        return None
    last = seen[-1]
    return UserCursor(last.message.accepted_at_us, last.message.room_id, last.seq)


async def test_following_a_cursor_misses_nothing_while_others_write(stack):
    old = await append(stack, *crowd(100))
    seen: list[StoredMessage] = []
    while page := await stack.reader.user_page(2, limit=3, before=cursor_after(seen)):
        seen += page
        await append(stack, message("r0", 2, at=NOW_US + 10**12), message("r9", 2, at=NOW_US + 10**12))
    assert seen == history_order(each for each in old if each.message.user_id == 2)


@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0, None), (2, 5), (None, 5), (3, None), (5, 5), (6, 2), (99, None)]
)
async def test_windows_include_both_of_their_ends(stack, start, end):
    batch = [message(f"r{number % 2}", 3, at=NOW_US + number) for number in range(10)]
    stored = await append(stack, *batch)
    window = TimeWindow(
        start_us=None if start is None else NOW_US + start, end_us=None if end is None else NOW_US + end
    )
    low, high = (0 if start is None else start), (99 if end is None else end)
    inside = [each for number, each in enumerate(stored) if low <= number <= high]
    assert await stack.reader.user_page(3, limit=100, window=window) == history_order(inside)
    for room in ("r0", "r1"):
        page = await stack.reader.room_page(room, limit=100, window=window)
        assert page == newest_first(by_room(inside)[room])
    for analytics in stack.analytics():
        assert await analytics.active_users(window) == bool(inside)


async def test_a_page_of_a_window_follows_numbers_though_times_run_wild(stack):
    stored = await append(stack, *crowd(300, rooms=2))
    times = sorted({each.message.accepted_at_us for each in stored})
    for start, end in [(0, -1), (3, 7), (5, 5), (0, 4), (8, -1)]:
        window = TimeWindow(start_us=times[start], end_us=times[end])
        inside = [each for each in stored if times[start] <= each.message.accepted_at_us <= times[end]]
        for room, rows in by_room(inside).items():
            newest = newest_first(rows)
            for limit, at in [(400, 0), (7, 0), (7, len(newest) // 2)]:
                before = None if at == 0 else newest[at].seq
                page = await stack.reader.room_page(room, limit=limit, before_seq=before, window=window)
                assert page == newest[at + (at > 0) :][:limit]
        for analytics in stack.analytics():
            assert await analytics.active_users(window) == len({each.message.user_id for each in inside})


async def test_numbers_beyond_every_column_are_answered_like_any_other(stack):
    stored = await append(stack, message("a", 3))
    window = TimeWindow(start_us=-(10**30), end_us=10**30)
    assert await stack.reader.room_page("a", limit=5, before_seq=10**30, window=window) == stored
    assert await stack.reader.user_page(3, limit=5, before=UserCursor(10**30, "a", 10**30), window=window) == stored
    assert await stack.reader.user_page(10**30, limit=5) == []
    assert await stack.reader.room_range("a", after_seq=10**30, limit=5) == []
    assert await stack.reader.room_page("a", limit=0) == []
    for analytics in stack.analytics():
        assert await analytics.active_users(window) == 1
        assert await analytics.user_rooms(-5, limit=10) == []


async def test_heads_leave_out_rooms_without_messages(stack):
    await append(stack, message("a"), message("a"), message("b"))
    assert await stack.reader.heads(["a", "b", "nowhere"]) == {"a": 2, "b": 1}
    assert await stack.reader.heads([]) == {}


async def test_locate_finds_what_is_stored_and_nothing_else(stack):
    stored = await append(stack, *crowd(700))
    wanted = [each.message.key for each in stored]
    found = await stack.reader.locate([*wanted, (ABSENT, 7), ("no id at all", 7), (wanted[0][0], 99)])
    assert found == {each.message.key: each for each in stored}


# --- analytics


def recounted(stored: list[StoredMessage], limit: int) -> tuple[list, list, list, list]:
    """Top users, top rooms, minutes and hours, counted in plain Python."""
    messages = [each.message for each in stored]
    per_user, per_room = Counter(m.user_id for m in messages), Counter(m.room_id for m in messages)
    names = {m.user_id: m.username for m in sorted(messages, key=lambda m: (m.accepted_at_us, m.username))}
    users = [UserCount(user, names[user], n) for user, n in sorted(per_user.items(), key=lambda x: (-x[1], x[0]))]
    rooms = [
        RoomCount(room, n, len({m.user_id for m in messages if m.room_id == room}))
        for room, n in sorted(per_room.items(), key=lambda x: (-x[1], x[0]))
    ]
    per_minute = Counter(m.accepted_at_us // MINUTE_US * MINUTE_US for m in messages)
    minutes = [MinuteCount(*each) for each in sorted(per_minute.items(), reverse=True)]
    hours: dict[int, list[Message]] = {}
    for m in messages:
        hours.setdefault(m.accepted_at_us // (60 * MINUTE_US) % 24, []).append(m)
    patterns = [HourCount(hour, len(ms), len({m.user_id for m in ms})) for hour, ms in sorted(hours.items())]
    return users[:limit], rooms[:limit], minutes[:limit], patterns


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_every_count_equals_one_made_by_hand(stack, limit):
    batch = crowd(400, rooms=6, users=9)
    stored = [each for start in range(0, 400, 37) for each in await append(stack, *batch[start : start + 37])]
    for analytics in stack.analytics():
        users, rooms, minutes, patterns = recounted(stored, limit)
        assert await analytics.top_users(limit) == users
        assert await analytics.top_rooms(limit) == rooms
        assert await analytics.throughput(limit) == minutes
        assert await analytics.patterns() == patterns
        assert await analytics.total_messages() == 400
        assert await analytics.active_users(TimeWindow()) == 9
        assert await analytics.user_rooms(4, limit=1000) == rooms_of(stored, 4)
        assert await walked_rooms(analytics, 4, limit) == rooms_of(stored, 4)


async def walked_rooms(analytics: Analytics, user: int, limit: int) -> list[UserRoom]:
    """The rooms of a user, page by page."""
    found: list[UserRoom] = []
    after = None
    while page := await analytics.user_rooms(user, limit=limit, after=after):
        assert len(page) <= limit
        found += page
        after = ActivityCursor(page[-1].last_activity_us, page[-1].room_id)
    return found


def rooms_of(stored: list[StoredMessage], user: int) -> list[UserRoom]:
    mine = by_room([each for each in stored if each.message.user_id == user])
    rooms = [UserRoom(room, max(e.message.accepted_at_us for e in own), len(own)) for room, own in mine.items()]
    return sorted(rooms, key=lambda each: (-each.last_activity_us, each.room_id))


async def test_an_empty_store_counts_nothing(stack):
    for analytics in stack.analytics():
        assert await analytics.total_messages() == 0
        assert await analytics.active_users(TimeWindow()) == 0
        for nothing in (
            analytics.top_users(5),
            analytics.top_rooms(5),
            analytics.throughput(5),
            analytics.patterns(),
            analytics.user_rooms(1, limit=10),
        ):
            assert await nothing == []


# --- audit


async def test_an_audit_names_what_was_tampered_with(stack):
    raw = raw_of(stack)
    stored = await append(stack, message("a"), message("a"), message("a"), message("b"), message("c", 8))
    raw("DELETE FROM messages WHERE room_id = 'a' AND seq = 2")
    raw("UPDATE room_heads SET last_seq = 5 WHERE room_id = 'b'")
    raw("DELETE FROM room_heads WHERE room_id = 'c'")
    raw("INSERT INTO room_heads VALUES ('ghost', 9)")
    total, findings = await stack.auditor.recount(summaries=False)
    assert total == len(stored) - 1
    assert findings == [
        Finding("sequence", "a", "1..3 without gaps", "2 rows from 1"),
        Finding("head", "b", "last_seq=1", "last_seq=5"),
        Finding("head", "c", "last_seq=1", "nothing"),
        Finding("head", "ghost", "nothing", "last_seq=9"),
        Finding("commits", f"partition {partition_of('a', 8)} of 8", "3 rows confirmed to processors", "2 rows"),
    ]


@pytest.mark.parametrize("make_backend", ["sqlite-summaries", "mariadb-summaries"], indirect=True)
async def test_an_audit_names_every_summary_that_is_not_a_recount(stack):
    await append(stack, message("a"), message("b"), message("a", 8))
    stack.raw("UPDATE room_message_summary SET unique_users = 1 WHERE room_id = 'a'")
    stack.raw("UPDATE user_message_summary SET username = 'nobody' WHERE user_id = 8")
    stack.raw("DELETE FROM user_room_summary WHERE user_id = 7 AND room_id = 'b'")
    stack.raw("INSERT INTO user_room_summary SELECT 99, 'z', 1, last_activity FROM user_room_summary WHERE user_id = 8")
    _, findings = await stack.auditor.recount(summaries=True)
    assert [(each.check, each.subject) for each in findings] == [
        ("room_summary", "a"),
        ("user_summary", "8"),
        ("user_room_summary", "7/b"),
        ("user_room_summary", "99/z"),
    ]
    assert len((await stack.auditor.recount(summaries=True, limit=2))[1]) == 2


DAMAGES = [
    ("head", "lobby", "UPDATE room_heads SET last_seq = last_seq + 1 WHERE room_id = 'lobby'"),
    ("head", "lobby", "DELETE FROM room_heads WHERE room_id = 'lobby'"),
    ("head", "ghost", "INSERT INTO room_heads VALUES ('ghost', 1)"),
    ("room_summary", "lobby", "UPDATE room_message_summary SET total_messages = 99 WHERE room_id = 'lobby'"),
    ("room_summary", "lobby", "UPDATE room_message_summary SET unique_users = 99 WHERE room_id = 'lobby'"),
    ("room_summary", "lobby", "UPDATE room_message_summary SET last_activity = {other_time} WHERE room_id = 'lobby'"),
    ("room_summary", "lobby", "DELETE FROM room_message_summary WHERE room_id = 'lobby'"),
    ("room_summary", "ghost", "INSERT INTO room_message_summary VALUES ('ghost', 1, 1, {other_time})"),
    ("user_summary", "8", "UPDATE user_message_summary SET username = 'BOB' WHERE user_id = 8"),
    ("user_summary", "8", "UPDATE user_message_summary SET total_messages = 99 WHERE user_id = 8"),
    ("user_summary", "8", "UPDATE user_message_summary SET last_seen = {other_time} WHERE user_id = 8"),
    ("user_summary", "8", "DELETE FROM user_message_summary WHERE user_id = 8"),
    ("user_summary", "99", "INSERT INTO user_message_summary VALUES (99, 'ghost', 1, {other_time})"),
    ("user_room_summary", "8/lobby", "UPDATE user_room_summary SET message_count = 99 WHERE user_id = 8"),
    ("user_room_summary", "8/lobby", "UPDATE user_room_summary SET last_activity = {other_time} WHERE user_id = 8"),
    ("user_room_summary", "8/lobby", "DELETE FROM user_room_summary WHERE user_id = 8"),
    ("user_room_summary", "8/ghost", "INSERT INTO user_room_summary VALUES (8, 'ghost', 1, {other_time})"),
]


@pytest.mark.parametrize("make_backend", ["sqlite-summaries", "mariadb-summaries"], indirect=True)
async def test_an_audit_finds_each_damage_alone_and_all_of_them_together(stack):
    """User 8's latest messages are two of one moment, with two names."""
    two_names = [message("lobby", 8, at=NOW_US, username=name) for name in ("bob", "al")]
    await append(stack, message("a"), message("lobby"), *two_names)
    tables = "room_heads", "room_message_summary", "user_message_summary", "user_room_summary"
    kept = {table: f"kept_{table}" for table in tables}
    other_time = "5" if "sqlite" in type(stack.database).__module__ else "'2026-01-01 00:00:00'"
    for table, copy in kept.items():
        stack.raw(f"CREATE TABLE {copy} AS SELECT * FROM {table}")
    try:
        for check, subject, damage in DAMAGES:
            stack.raw(damage.format(other_time=other_time))
            findings = (await stack.auditor.recount(summaries=True))[1]
            assert [(each.check, each.subject) for each in findings] == [(check, subject)], damage
            for table, copy in kept.items():
                stack.raw(f"DELETE FROM {table}")
                stack.raw(f"INSERT INTO {table} SELECT * FROM {copy}")
            assert (await stack.auditor.recount(summaries=True))[1] == []
        for table in tables:
            stack.raw(f"DELETE FROM {table}")
        for *_, damage in DAMAGES:
            stack.raw(damage.format(other_time=other_time))
        findings = (await stack.auditor.recount(summaries=True))[1]
        wrong = {(each.check, each.subject, each.found == "nothing") for each in findings}
        assert wrong >= {(check, subject, subject not in {"ghost", "99", "8/ghost"}) for check, subject, _ in DAMAGES}
    finally:
        for copy in kept.values():
            stack.raw(f"DROP TABLE {copy}")


async def test_a_head_that_never_moved_is_no_finding(stack):
    raw = raw_of(stack)
    raw("INSERT INTO room_heads VALUES ('quiet', 0)")
    assert await stack.auditor.recount(summaries=stack.summaries) == (0, [])


async def test_copies_say_in_which_room_each_message_is(stack):
    stored = await append(stack, *crowd(1200))
    wanted = [each.message.key for each in stored]
    found = await stack.auditor.copies([*wanted, (ABSENT, 7), (ABSENT, None), ("no id at all", 7)])
    assert found == {each.message.key: [(each.message.user_id, each.message.room_id)] for each in stored}


async def test_copies_of_an_id_without_its_user_are_those_of_everybody(stack):
    mine = message("a", 7)
    await append(stack, mine, attrs.evolve(mine, user_id=8, room_id="b"), message("c", 9))
    found = await stack.auditor.copies([(mine.message_id, None), (mine.message_id, 8), (mine.message_id, 9)])
    assert {key: sorted(rows) for key, rows in found.items()} == {
        (mine.message_id, None): [(7, "a"), (8, "b")],
        (mine.message_id, 8): [(8, "b")],
    }


async def test_a_store_that_works_answers_a_ping(stack):
    await stack.store.ping()
    await assert_sound(stack, 0)


# --- anything, in any order


class StoreMachine(RuleBasedStateMachine):
    """Appends of new, old, doubled, moved, borrowed and poisonous messages by two processes, against a model."""

    stacks: list[Stack]
    runner: asyncio.Runner

    @initialize()
    def begin(self):
        self.sent: list[Message] = []
        self.stored: dict[MessageKey, StoredMessage] = {}

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def expect(self, batch: list[Message]) -> None:
        heads = Counter(each.message.room_id for each in self.stored.values())
        for each in batch:
            if each.key not in self.stored:
                heads[each.room_id] += 1
                self.stored[each.key] = StoredMessage(each, heads[each.room_id])
        self.sent += batch

    def draw(self, seed: int, size: int) -> list[Message]:
        """A batch of new messages, old ones, old ones in another room and their ids given by others, in any order."""
        draw = random.Random(seed)
        fresh = [
            message(f"r{draw.randrange(4)}", draw.randrange(1, 6), at=NOW_US + draw.randrange(5) * MINUTE_US)
            for _ in range(size)
        ]
        old = draw.sample(self.sent, min(len(self.sent), draw.randrange(4)))
        moved = [attrs.evolve(each, room_id=f"r{draw.randrange(4)}") for each in old[:1]]
        borrowed = [attrs.evolve(each, user_id=draw.randrange(1, 6)) for each in (old + fresh)[-2:]]
        batch = fresh + old + moved + borrowed + fresh[: draw.randrange(2)]
        draw.shuffle(batch)
        return batch

    @rule(seed=st.integers(0, 2**32), size=st.integers(0, 6), who=st.integers(0, 1))
    def append(self, seed, size, who):
        batch = self.draw(seed, size)
        fresh = {each.key for each in batch} - set(self.stored)
        appended = self.run(self.stacks[who].store.append_batch(batch))
        self.expect(batch)
        distinct = dict.fromkeys(each.key for each in batch)
        assert list(appended.stored) == [self.stored[each] for each in distinct]
        assert appended.duplicates == len(batch) - len(fresh)

    @rule(seed=st.integers(0, 2**32), size=st.integers(1, 6))
    def append_the_same_in_two_processes(self, seed, size):
        batch = self.draw(seed, size)

        async def both():
            return await asyncio.gather(*(stack.store.append_batch(batch) for stack in self.stacks))

        fresh = {each.key for each in batch} - set(self.stored)
        one, two = self.run(both())
        self.expect(batch)
        assert one.stored == two.stored == tuple(self.stored[each.key] for each in unique(batch))
        assert one.duplicates + two.duplicates == 2 * len(batch) - len(fresh)

    @rule(seed=st.integers(0, 2**32), fields=st.sampled_from(list(POISON.values())))
    def append_poison(self, seed, fields):
        batch = [*self.draw(seed, 2), message(**fields)]
        with pytest.raises(RowRejected):
            self.run(self.stacks[0].store.append_batch(batch))

    @invariant()
    def rows_are_the_model(self):
        if self.stacks[0].raw is None:
            return
        rows = self.stacks[0].raw("SELECT lower(hex(message_id)), user_id, room_id, seq FROM messages")
        expected = [(key.replace("-", ""), user, e.message.room_id, e.seq) for (key, user), e in self.stored.items()]
        assert sorted(rows) == sorted(expected)

    @invariant()
    def audits_are_clean_and_counts_agree(self):
        for stack in self.stacks:
            assert self.run(stack.auditor.recount(summaries=stack.summaries)) == (len(self.stored), [])
        if (raw := self.stacks[0].raw) is not None:
            assert raw("SELECT SUM(committed) FROM commit_counts")[0][0] in {len(self.stored), None}
        users, rooms, minutes, patterns = recounted(list(self.stored.values()), 100)
        for analytics in self.stacks[1].analytics():
            assert self.run(analytics.top_users(100)) == users
            assert self.run(analytics.top_rooms(100)) == rooms
            assert self.run(analytics.throughput(100)) == minutes
            assert self.run(analytics.patterns()) == patterns

    @invariant()
    def pages_are_complete(self):
        reader = self.stacks[1].reader
        for room, expected in by_room(list(self.stored.values())).items():
            assert self.run(reader.room_page(room, limit=1000)) == newest_first(expected)
        for user in range(1, 6):
            mine = (each for each in self.stored.values() if each.message.user_id == user)
            assert self.run(reader.user_page(user, limit=1000)) == history_order(mine)


def unique(batch: list[Message]) -> list[Message]:
    return list({each.key: each for each in batch}.values())


def test_any_sequence_of_appends_leaves_exactly_what_was_appended(make_backend, tmp_path_factory, request):
    with asyncio.Runner() as runner:

        class Machine(StoreMachine):
            def __init__(self):
                super().__init__()
                self.runner = runner
                backend = make_backend(tmp_path_factory.mktemp("machine"))
                self.opened = [backend.open(), backend.open()]
                self.stacks = [runner.run(each.__aenter__()) for each in self.opened]

            def teardown(self):
                for each in self.opened:
                    runner.run(each.__aexit__(None, None, None))

        # MariaDB takes several times as long, most of all without compat.py, where one packet or several differs.
        is_long = request.node.get_closest_marker("long") is not None
        is_short = "fallback" in request.node.name or ("mariadb" in request.node.name and not is_long)
        examples = 5 if is_short else 15
        quiet = hypothesis.settings(max_examples=examples, stateful_step_count=12, deadline=None)
        run_state_machine_as_test(Machine, settings=quiet)
