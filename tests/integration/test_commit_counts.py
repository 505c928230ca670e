"""The second witness, on both databases: it counts exactly what is stored, and says what vanished as a whole."""

import asyncio
import random
from contextlib import suppress

import pytest

from chatflow.adapters.sql import store as sql_store
from chatflow.adapters.sql.errors import translated
from chatflow.adapters.sql.mysql import packet
from chatflow.domain.messages.rooms import partition_of
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.store import Finding
from tests.contract.store_cases import message, opened, sqlite_backend
from tests.contract.store_maria import maria_schemas

__all__ = ["maria_schemas"]

ROOM = "lobby"
PARTITION = partition_of(ROOM, 8)
TABLES = "messages", "room_heads", "room_message_summary", "user_message_summary", "user_room_summary"


@pytest.fixture(params=["sqlite", "mariadb"])
async def stack(request, tmp_path):
    if request.param == "sqlite":
        async with sqlite_backend(tmp_path, summaries=True).open() as one:
            yield one
        return
    raw = request.getfixturevalue("maria_schemas").emptied()
    async with opened(raw.url, raw, summaries=True) as one:
        yield one


def counted(stack) -> int:
    return int(stack.raw("SELECT COALESCE(SUM(committed), 0) FROM commit_counts")[0][0])


async def assert_sound(stack, total: int) -> None:
    assert await stack.auditor.recount(summaries=True) == (total, [])
    assert counted(stack) == total


class Lost(Exception):
    """For a transaction that is taken back though its caller is told that it is committed."""


async def append_and_lose(stack, monkeypatch, *messages):
    """A store that says that it has committed, and has not."""
    append = sql_store.append_batch
    answers = []

    def vanish(*args):
        answers.append(append(*args))
        raise Lost

    with monkeypatch.context() as patch:
        patch.setattr(packet, "COMMIT", ("ROLLBACK",))
        patch.setattr(sql_store, "append_batch", vanish)
        with pytest.raises(Lost):
            await stack.database.write(stack.store._append, list(messages), {})
    stack.store.counts.add(answers[0].new)
    return answers[0]


async def test_a_transaction_that_vanished_as_a_whole_is_found_after_the_next_one(stack, monkeypatch):
    await stack.store.append_batch([message(ROOM) for _ in range(5)])
    await append_and_lose(stack, monkeypatch, *(message(ROOM) for _ in range(3)))
    assert await stack.auditor.recount(summaries=True) == (5, []), "its processor has not said anything since"
    await stack.store.append_batch([message(ROOM)])
    assert await stack.auditor.recount(summaries=True) == (
        6,
        [Finding("commits", f"partition {PARTITION} of 8", "9 rows confirmed to processors", "6 rows")],
    )


async def test_another_partition_or_processor_does_not_make_up_for_it(stack, monkeypatch):
    other = next(f"r{n}" for n in range(99) if partition_of(f"r{n}", 8) != PARTITION)
    await stack.store.append_batch([message(other) for _ in range(50)])
    await append_and_lose(stack, monkeypatch, message(ROOM))
    another = sql_store.SqlMessageStore(stack.database, lambda: 0, summaries=True)
    await another.append_batch([message(ROOM) for _ in range(50)])
    await stack.store.append_batch([message(other)])
    assert (await stack.auditor.recount(summaries=True))[1] == []
    await stack.store.append_batch([message(ROOM)])
    _, findings = await stack.auditor.recount(summaries=True)
    assert [(each.check, each.found) for each in findings] == [("commits", "51 rows")]


async def test_what_was_stored_before_anybody_counted_is_in_the_total(stack):
    await stack.store.append_batch([message(ROOM) for _ in range(5)])
    stack.raw("DELETE FROM commit_counts")
    stack.raw("INSERT INTO commit_counts SELECT '', -1, 0, SUM(last_seq), 0 FROM room_heads")
    assert await stack.auditor.recount(summaries=True) == (5, [])
    for table in TABLES:
        stack.raw(f"DELETE FROM {table}")
    findings = (await stack.auditor.recount(summaries=True))[1]
    assert findings == [Finding("commits", "all partitions", "5 rows confirmed to processors", "0 rows")]


async def test_rows_that_nobody_counted_are_no_finding(stack):
    await stack.store.append_batch([message(ROOM) for _ in range(5)])
    stack.raw("DELETE FROM commit_counts")
    assert await stack.auditor.recount(summaries=True) == (5, [])


async def test_a_commit_whose_answer_was_lost_is_counted_once_and_hides_no_later_loss(stack, monkeypatch):
    batch = [message(ROOM) for _ in range(4)]
    write = stack.database.write

    async def answer_lost(*args, **options):
        await write(*args, **options)
        raise StoreUnavailable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(stack.database), "write", lambda _, *args, **options: answer_lost(*args, **options))
        with pytest.raises(StoreUnavailable):
            await stack.store.append_batch(batch)
    await assert_sound(stack, 4)
    assert (await stack.store.append_batch(batch)).duplicates == 4
    await append_and_lose(stack, monkeypatch, message(ROOM))
    await stack.store.append_batch([message(ROOM)])
    assert [each.check for each in (await stack.auditor.recount(summaries=True))[1]] == ["commits"]


async def test_duplicates_poison_cancelled_and_crowded_appends_are_counted_exactly(stack):
    draw = random.Random(3)
    sent = []

    async def some():
        batch = [message(f"r{draw.randrange(4)}", draw.randrange(1, 6)) for _ in range(draw.randrange(1, 30))]
        batch += draw.sample(sent, min(len(sent), draw.randrange(3)))
        sent.extend(batch)
        if draw.random() < 0.1:
            batch.append(message(text="x" * 5_000))
        task = asyncio.ensure_future(stack.store.append_batch(batch))
        if draw.random() < 0.2:
            await asyncio.sleep(0)
            task.cancel()
        with suppress(Exception, asyncio.CancelledError), translated():
            await task

    for _ in range(8):
        await asyncio.gather(*(some() for _ in range(6)))
    for start in range(0, len(sent), 20):
        await stack.store.append_batch(sent[start : start + 20])
    await assert_sound(stack, len({each.message_id for each in sent}))
