"""Rows of dead letters under a replay: who resolves them, who opens them again, on SQLite and on MariaDB."""

import itertools

import attrs
import pytest

from chatflow.adapters.sql.dlq import SqlDeadLetters
from chatflow.adapters.sql.store import SqlMessageStore
from tests.contract.store_cases import NOW_US, maria_backend, message, sqlite_backend
from tests.contract.store_maria import maria_schemas

__all__ = ["maria_schemas"]


@attrs.frozen
class Rows:
    """A box and a store whose common clock moves with each call."""

    box: SqlDeadLetters
    store: SqlMessageStore

    async def one(self, **options):
        (letter,) = await self.box.list_dead(limit=10, **options)
        return letter


@pytest.fixture(params=["sqlite", "mariadb"])
async def rows(request, tmp_path):
    if request.param == "sqlite":
        backend = sqlite_backend(tmp_path, summaries=True)
    else:
        request.getfixturevalue("maria_server").make_ready()
        backend = maria_backend(request.getfixturevalue("maria_schemas").emptied(), summaries=True)
    ticks = itertools.count(NOW_US)
    async with backend.open() as stack:
        clock = lambda: next(ticks)
        yield Rows(SqlDeadLetters(stack.database, clock), SqlMessageStore(stack.database, clock, summaries=True))


async def test_a_letter_is_resolved_once_it_was_replayed(rows):
    await rows.store.add_dead_letter(message(), "bad")
    letter = await rows.one()
    await rows.box.mark_retried(letter.id, resolved=False)
    tried = await rows.one()
    assert (tried.retry_count, tried.last_retry_us) == (1, NOW_US + 1)
    assert await rows.box.resolve(tried)
    assert await rows.box.list_dead(limit=10) == []
    assert await rows.box.resolve(tried)  # a repeated answer is the same


async def test_a_letter_that_came_back_since_its_replay_is_not_resolved(rows):
    bad = message()
    await rows.store.add_dead_letter(bad, "bad")
    letter = await rows.one()
    await rows.box.mark_retried(letter.id, resolved=False)
    tried = await rows.one()
    await rows.store.add_dead_letter(bad, "still bad")
    assert not await rows.box.resolve(tried)
    again = await rows.one()
    assert (again.id, again.error_reason, again.retry_count, again.resolved) == (letter.id, "still bad", 1, False)
    assert again.last_retry_us == NOW_US + 2


async def test_a_letter_that_somebody_else_replays_is_resolved_by_the_later_one(rows):
    await rows.store.add_dead_letter(message(), "bad")
    letter = await rows.one()
    await rows.box.mark_retried(letter.id, resolved=False)
    first = await rows.one()
    await rows.box.mark_retried(letter.id, resolved=False)
    second = await rows.one()
    assert not await rows.box.resolve(first)
    assert await rows.box.resolve(second)


async def test_adding_one_twice_is_no_return_from_a_replay(rows):
    bad = message()
    await rows.store.add_dead_letter(bad, "bad")
    before = await rows.one()
    await rows.store.add_dead_letter(bad, "bad")
    assert await rows.one() == before
    assert before.last_retry_us is None


async def test_letters_are_listed_page_by_page(rows):
    for _ in range(5):
        await rows.store.add_dead_letter(message(), "bad")
    whole = await rows.box.list_dead(limit=10)
    pages = [await rows.box.list_dead(limit=2)]
    while page := await rows.box.list_dead(limit=2, after_id=pages[-1][-1].id):
        pages.append(page)
    assert [letter for page in pages for letter in page] == whole
