"""Two nodes of a real Galera cluster that both take writes: what one rolls back in the other's favour is not lost."""

import asyncio
import time

import pytest
from sqlalchemy import text

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.mysql import proven
from tests.conftest import need
from tests.contract.store_cases import message
from tests.harness.galera import GaleraCluster, GaleraNode
from tests.integration.mysql_cases import assert_sound, batches, process

pytestmark = pytest.mark.timeout(120)

ABORTS = "SHOW GLOBAL STATUS LIKE 'wsrep_local_bf_aborts'"
CAUGHT_UP = "SET SESSION wsrep_sync_wait = 7"
"""A node applies what the other has committed, tables too, a moment later."""

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def cluster(server_guard):
    missing = GaleraNode.missing()
    need(missing is None, missing or "")
    started = GaleraCluster.start(server_guard)
    yield started
    started.kill()


@pytest.fixture
async def urls(cluster):
    first, second = cluster.nodes
    database = first.database()
    await asyncio.to_thread(migrate.upgrade, first.url(database))
    yield first.url(database), second.url(database)
    first.drop(database)


def aborts(node) -> int:
    return int(node.execute(ABORTS)[0][1])


def victim_of(node, other, database):
    """A transaction that is rolled back in the background, on its first run, before a statement that is prepared."""
    calls = []

    def write(conn):
        calls.append(1)
        conn.execute(text("UPDATE room_heads SET last_seq = last_seq + 1 WHERE room_id = 'a'"))
        if len(calls) == 1:
            before, deadline = aborts(node), time.monotonic() + PATIENCE_S
            other.execute(f"{CAUGHT_UP}; UPDATE room_heads SET last_seq = 100 WHERE room_id = 'a'", database)
            while aborts(node) == before:
                assert time.monotonic() < deadline, "the transaction was not rolled back"
        conn.exec_driver_sql("INSERT INTO room_heads (room_id, last_seq) VALUES (%s, %s)", ("b", 7))

    return write, calls


def heads(conn) -> dict[str, int]:
    return dict(tuple(row) for row in conn.exec_driver_sql("SELECT room_id, last_seq FROM room_heads").all())


async def test_a_background_rollback_takes_the_savepoint_along(cluster, urls, caplog):
    first, second = cluster.nodes
    async with process(urls[0]) as mine:
        await mine.database.write(lambda conn: conn.execute(text("INSERT INTO room_heads VALUES ('a', 0)")))
        write, calls = victim_of(first, second, urls[0].rpartition("/")[2])
        await mine.database.write(write)
        assert len(calls) == 2
        assert await mine.database.read(heads) == {"a": 101, "b": 7}
    assert "unnoticed" in caplog.text, "the driver does not hide it any more, and this test has nothing to show"


async def test_without_the_savepoint_half_of_that_transaction_would_be_lost(cluster, urls, monkeypatch):
    """What the other test is worth."""
    monkeypatch.setattr(proven, "COMMIT", ("COMMIT",))
    first, second = cluster.nodes
    async with process(urls[0]) as mine:
        await mine.database.write(lambda conn: conn.execute(text("INSERT INTO room_heads VALUES ('a', 0)")))
        write, calls = victim_of(first, second, urls[0].rpartition("/")[2])
        await mine.database.write(write)
        assert len(calls) == 1
        assert await mine.database.read(heads) == {"a": 100, "b": 7}


@pytest.mark.parametrize("size", [5, 60], ids=["few packets", "bulk"])
async def test_processors_on_two_nodes_that_write_the_same_rooms_store_each_message_once(urls, size):
    todo = batches(20, size)
    async with process(urls[0]) as one, process(urls[1]) as two:

        async def work(mine, own):
            return [await mine.until_stored(batch) for batch in own]

        await asyncio.gather(work(one, todo), work(two, todo[::-1]), work(one, batches(5, size)))
    await assert_sound(urls[0], 25 * size)


async def test_a_message_sent_to_both_nodes_is_stored_once(urls):
    async with process(urls[0]) as one, process(urls[1]) as two:
        for _ in range(10):
            batch = [message("a")]
            first, second = await asyncio.gather(one.until_stored(batch), two.until_stored(batch))
            assert first.stored == second.stored
    await assert_sound(urls[1], 10)
