"""Small transactions on a real server: several statements in one packet, whole or not at all."""

import asyncio
import random

import pytest

from chatflow.adapters.sql.errors import AlreadyStored
from chatflow.adapters.sql.mysql import append as append_mysql
from chatflow.adapters.sql.mysql.packet import commit_together, run_together
from chatflow.ports.errors import RowRejected, StoreUnavailable
from tests.contract.store_cases import message
from tests.contract.store_maria import fresh_url, maria_schemas
from tests.integration.mysql_cases import assert_sound, connection_id, process

__all__ = ["fresh_url", "maria_schemas"]

HEAD = "INSERT INTO room_heads (room_id, last_seq) VALUES ('{}', 0)"


def heads(conn) -> list[str]:
    return [row[0] for row in conn.exec_driver_sql("SELECT room_id FROM room_heads ORDER BY room_id")]


async def test_each_statement_has_its_rows(fresh_url):
    def ask(conn):
        asked = ["SELECT 1, 'a'", HEAD.format("lobby"), "SELECT room_id FROM room_heads"]
        rows = run_together(conn, asked)
        commit_together(conn, ["DO 1"])
        return rows

    async with process(fresh_url) as mine:
        rows = await mine.database.write(ask)
        assert [list(each) for each in rows] == [[(1, "a")], [], [("lobby",)]]
        assert await mine.database.read(heads) == ["lobby"]


async def test_nothing_stays_of_statements_before_one_that_fails_and_none_after_it_is_run(fresh_url):
    def fail(conn):
        commit_together(conn, [HEAD.format("a"), HEAD.format("a"), HEAD.format("b")])

    def commit(conn):
        commit_together(conn, ["DO 1"])

    async with process(fresh_url, writer_pool=1) as mine:
        before = await mine.database.write(connection_id)
        with pytest.raises(Exception, match="Duplicate entry"):
            await mine.database.write(fail)
        await mine.database.write(commit)
        assert await mine.database.read(heads) == []
        assert await mine.database.write(connection_id) == before, "a statement's fault is not the connection's"


async def test_what_a_failed_transaction_has_locked_and_written_is_given_up(fresh_url):
    def write_and_fail(conn):
        run_together(conn, [HEAD.format("ghost")])
        raise RowRejected("found out late")

    async with process(fresh_url, writer_pool=1) as mine, process(fresh_url, write_deadline_s=2) as other:
        with pytest.raises(RowRejected):
            await mine.database.write(write_and_fail)
        await other.store.append_batch([message("ghost")])
        await mine.store.append_batch([message("lobby")])
        assert await mine.database.read(heads) == ["ghost", "lobby"]
    await assert_sound(fresh_url, 2)


@pytest.mark.parametrize("end", ["killed", "cancelled"])
async def test_a_connection_whose_packet_broke_off_is_not_used_again(fresh_url, maria_server, end):
    def slow(conn):
        run_together(conn, ["SELECT SLEEP(30)", "SELECT 1"])

    async with process(fresh_url, writer_pool=1) as mine:
        number = await mine.database.write(connection_id)
        task = asyncio.create_task(mine.database.write(slow))
        await asyncio.sleep(0.2)
        if end == "killed":
            maria_server.execute(f"KILL {number}")
        else:
            task.cancel()
        with pytest.raises(StoreUnavailable if end == "killed" else asyncio.CancelledError):
            await task
        assert await mine.database.write(connection_id) != number


@pytest.mark.parametrize("small", [0, 10_000], ids=["many packets", "few packets"])
async def test_writers_that_share_rooms_and_users_keep_every_sum_exact(fresh_url, monkeypatch, small):
    monkeypatch.setattr(append_mysql, "SMALL", small)
    draw = random.Random(7)

    def batch():
        return [message(f"r{draw.randrange(3)}", draw.randrange(1, 9)) for _ in range(draw.randrange(1, 20))]

    work = [[batch() for _ in range(15)] for _ in range(6)]

    async def write(mine, batches):
        for batch in batches:
            await mine.until_stored(batch)
            await mine.until_stored(batch[: len(batch) // 2 + 1])  # as a redelivery would

    async with process(fresh_url) as one, process(fresh_url) as two:
        await asyncio.gather(*(write((one, two)[at % 2], batches) for at, batches in enumerate(work)))
    await assert_sound(fresh_url, sum(len(batch) for batches in work for batch in batches))


async def test_an_id_that_exists_is_told_apart_in_a_packet(fresh_url):
    async with process(fresh_url) as mine:
        one = message("lobby")
        await mine.store.append_batch([one])
        with pytest.raises(AlreadyStored):
            await mine.database.write(mine.store._append, [one], {})
        appended = await mine.store.append_batch([message("lobby"), one])
        assert [each.seq for each in appended.stored] == [2, 1]
        assert appended.duplicates == 1
    await assert_sound(fresh_url, 2)
