"""A server rolls back between two statements, and the driver may not say so: nothing of that is taken for a commit."""

import logging

import pytest
from sqlalchemy import text

from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.mysql import append as append_mysql
from chatflow.adapters.sql.mysql import multirow
from chatflow.ports.errors import SequenceCollision
from tests.contract.store_cases import message
from tests.contract.store_maria import fresh_url, maria_schemas
from tests.harness.rollbacks import PREPARE, rollback_proxy
from tests.integration.mysql_cases import assert_sound, process

__all__ = ["fresh_url", "maria_schemas"]

PATHS = {"bulk": (True, 0), "text": (False, 0), "few packets": (True, 16)}


@pytest.fixture(params=PATHS.values(), ids=PATHS)
def insert_path(request, monkeypatch):
    in_binary, small = request.param
    monkeypatch.setattr(multirow, "takes_rows_in_binary", lambda _: in_binary)
    monkeypatch.setattr(append_mysql, "SMALL", small)
    return in_binary


@pytest.mark.parametrize("summaries", [True, False], ids=["summaries", "no summaries"])
async def test_a_rollback_at_any_statement_loses_nothing(fresh_url, insert_path, summaries):
    """Each position on new connections: the driver prepares, and hides what it is told then, only the first time."""
    total, met = 0, []
    async with rollback_proxy(fresh_url) as (proxy, url):
        while True:
            async with process(url, summaries=summaries, writer_pool=1) as mine:
                proxy.arm(total // 10)
                batch = [message(f"r{number % 3}", number % 4 + 1) for number in range(10)]
                appended = await mine.until_stored(batch)
                total += len(batch)
            assert [each.message for each in appended.stored] == batch
            if proxy.met is None:
                break
            met.append(proxy.met)
    assert len(met) >= 6
    async with process(fresh_url) as clean:
        assert await SqlAuditor(clean.database).recount(summaries=summaries) == (total, [])


async def test_a_rollback_that_the_driver_hides_is_logged(fresh_url, caplog):
    total, hidden = 0, []
    async with rollback_proxy(fresh_url) as (proxy, url):
        while not hidden:
            assert total < 1000, "the driver hides nothing any more"
            async with process(url, writer_pool=1) as mine:
                proxy.arm(total // 40)
                total += len((await mine.until_stored([message(f"r{each % 3}") for each in range(40)])).stored)
            hidden = [each for each in caplog.records if "unnoticed" in each.message]
    assert proxy.met == PREPARE
    assert [each.levelno for each in hidden] == [logging.WARNING]
    await assert_sound(fresh_url, total)


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
async def test_a_transaction_that_is_ended_by_somebody_else_is_run_again(fresh_url, end):
    """Whoever ends it: what came after does not count, and what came before is not done twice."""
    calls = 0

    def write(conn):
        nonlocal calls
        calls += 1
        conn.execute(text("INSERT INTO room_heads VALUES ('a', 0) ON DUPLICATE KEY UPDATE last_seq = last_seq"))
        if calls == 1:
            conn.connection.dbapi_connection.run_async(lambda driver: driver.query(end))
        conn.execute(text("INSERT INTO room_heads VALUES ('b', 0)"))

    async with process(fresh_url) as mine:
        await mine.database.write(write)
        assert calls == 2
        rows = await mine.database.read(lambda conn: conn.execute(text("SELECT room_id FROM room_heads")).all())
    assert sorted(row[0] for row in rows) == ["a", "b"]


async def test_what_fails_in_the_place_of_a_lost_transaction_says_nothing_about_it(fresh_url):
    """The rows that made the new ones right are gone, so a number that is taken is no collision of two writers."""
    calls = 0

    def write(conn):
        nonlocal calls
        calls += 1
        conn.execute(text("DELETE FROM room_heads WHERE room_id = 'a'"))
        if calls == 1:
            conn.connection.dbapi_connection.run_async(lambda driver: driver.query("ROLLBACK"))
        conn.execute(text("INSERT INTO room_heads VALUES ('a', 5)"))

    async with process(fresh_url) as mine:
        await mine.database.write(lambda conn: conn.execute(text("INSERT INTO room_heads VALUES ('a', 0)")))
        await mine.database.write(write)
        assert calls == 2
        rows = await mine.database.read(lambda conn: conn.execute(text("SELECT * FROM room_heads")).all())
    assert [tuple(row) for row in rows] == [("a", 5)]


async def test_an_error_of_the_transaction_that_was_begun_is_told_as_it_is(fresh_url):
    async with process(fresh_url) as mine:
        with pytest.raises(SequenceCollision):
            await mine.database.write(
                lambda conn: [conn.execute(text("INSERT INTO room_heads VALUES ('a', 0)")) for _ in "12"]
            )


@pytest.mark.parametrize("size", [1, 16, 17, 400])
@pytest.mark.parametrize("driver_fallback", [False, True], ids=["packets", "fallback"])
async def test_a_transaction_is_committed_once(fresh_url, size, driver_fallback):
    """The server counts the commits of each session; asking it is a transaction, too."""

    def commits(conn):
        return int(conn.execute(text("SHOW SESSION STATUS LIKE 'Com_commit'")).one()[1])

    async with process(fresh_url, writer_pool=1, driver_fallback=driver_fallback) as mine:
        before = await mine.database.write(commits)
        await mine.store.append_batch([message(f"r{number % 3}") for number in range(size)])
        after_batch = await mine.database.write(commits)
        await mine.store.add_dead_letter(message(), "bad")
        after_dead_letter = await mine.database.write(commits)
    assert (after_batch - before, after_dead_letter - after_batch) == (2, 2)
