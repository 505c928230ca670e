"""MariaDB is killed, stopped, cut off, made read-only: no row is lost, doubled or out of place, and nothing hangs."""

import asyncio
import time
from contextlib import suppress

import attrs
import pytest

from chatflow.adapters.sql.mysql import database, pools
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.ports.errors import QueryTimeout, StoreUnavailable
from tests.contract.store_cases import message
from tests.contract.store_maria import fresh_url, maria_schemas, raw_maria
from tests.harness.waiting import eventually
from tests.integration.mysql_cases import SLACK_S, assert_sound, batches, connection_id, process

__all__ = ["fresh_url", "maria_schemas", "raw_maria"]


def row_ids(conn):
    return conn.exec_driver_sql("SELECT last_seq FROM room_heads WHERE room_id = 'a'").all()


# --- the server goes away and comes back


async def test_batches_delivered_to_two_processors_while_the_server_is_killed_are_stored_once(maria_server, fresh_url):
    todo = batches(60, 50)

    async def kill_twice(progress):
        for part in (10, 30):
            await eventually(lambda part=part: progress["done"] >= part, "no progress")
            maria_server.kill()
            await asyncio.to_thread(maria_server.restart)

    progress = {"done": 0}
    async with process(fresh_url) as one, process(fresh_url) as two:

        async def work(mine, own):
            answers = []
            for batch in own:
                answers.append(await mine.until_stored(batch))
                progress["done"] += 1
            return answers

        backwards = todo[::-1]
        first, second, _ = await asyncio.gather(work(one, todo), work(two, backwards), kill_twice(progress))
    seqs = {each.message.message_id: each.seq for answer in first for each in answer.stored}
    assert {each.message.message_id: each.seq for answer in second for each in answer.stored} == seqs
    assert len(seqs) == 3000
    await assert_sound(fresh_url, 3000)


async def test_a_server_that_is_down_is_unavailable_at_once_and_used_again_when_it_is_back(maria_server, fresh_url):
    async with process(fresh_url) as mine:
        await mine.store.append_batch([message("a")])
        maria_server.kill()
        begin = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await mine.store.append_batch([message("a")])
            with pytest.raises(StoreUnavailable):
                await SqlMessageReader(mine.database).heads(["a"])
        assert time.monotonic() - begin < SLACK_S
        await asyncio.to_thread(maria_server.restart)
        await mine.store.append_batch([message("a")])
        assert await SqlMessageReader(mine.database).heads(["a"]) == {"a": 2}
    await assert_sound(fresh_url, 2)


async def test_connections_that_the_server_closed_while_they_were_idle_cost_no_failure(maria_server, fresh_url):
    async with process(fresh_url) as mine:
        await asyncio.gather(*(mine.store.append_batch([message(f"r{number}")] * 64) for number in range(8)))
        ids = maria_server.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{fresh_url.split('/')[-1]}'"
        )
        assert len(ids) >= 2
        for (number,) in ids:
            maria_server.execute(f"KILL {number}")
        await asyncio.gather(*(mine.store.append_batch([message(f"r{number}")]) for number in range(8)))
    await assert_sound(fresh_url, 16)


# --- the server or the link says nothing


async def test_a_stopped_server_ends_a_write_at_its_deadline_and_is_used_again_when_it_goes_on(maria_server, fresh_url):
    async with process(fresh_url, write_deadline_s=1.0, read_deadline_s=1.0) as mine:
        await mine.store.append_batch([message("a")])
        lost = message("a")
        maria_server.pause()
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await mine.store.append_batch([lost])
        with pytest.raises((QueryTimeout, StoreUnavailable)):
            await SqlMessageReader(mine.database).heads(["a"])
        assert time.monotonic() - begin < 2.0 + SLACK_S
        maria_server.resume()
        appended = await mine.until_stored([lost, message("a")])
        assert [each.seq for each in appended.stored] == [2, 3]
    await assert_sound(fresh_url, 3)


async def test_a_write_that_waits_for_another_has_no_more_time_than_that_one(maria_server, fresh_url):
    async with process(fresh_url, write_deadline_s=4) as mine:
        await mine.store.append_batch([message("a")])
        maria_server.pause()
        try:
            started = time.monotonic()
            writes = [asyncio.create_task(mine.store.append_batch([message("a")]))]
            await asyncio.sleep(0.2)
            writes += [asyncio.create_task(mine.store.append_batch([message(room)])) for room in "bc"]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            assert time.monotonic() - started < 4 + SLACK_S
        finally:
            maria_server.resume()
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_a_half_open_link_ends_a_write_at_its_deadline(fresh_url, fault_proxy, direction):
    proxy = fault_proxy(fresh_url)
    async with process(proxy.url(fresh_url), write_deadline_s=1.0) as mine:
        await mine.until_stored([message("a")])
        lost = message("a")
        proxy.half_open(direction)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await mine.store.append_batch([lost])
        assert time.monotonic() - begin < 1.0 + SLACK_S
        proxy.heal()
        assert (await mine.until_stored([lost])).stored[0].seq == 2
    await assert_sound(fresh_url, 2)


async def test_one_dead_link_does_not_cost_every_connection_a_deadline(fresh_url, fault_proxy):
    proxy = fault_proxy(fresh_url)
    async with process(proxy.url(fresh_url), write_deadline_s=3.0) as mine:
        await asyncio.gather(*(mine.until_stored([message(f"r{number}")]) for number in range(8)))
        proxy.stall()
        with pytest.raises(StoreUnavailable):
            await mine.store.append_batch([message("a")])
        proxy.heal()
        for _ in range(8):
            await mine.store.append_batch([message("b")])  # a connection that costs a deadline fails
    await assert_sound(fresh_url, 16)


async def test_locks_of_a_client_that_vanished_in_its_transaction_are_freed(fresh_url, fault_proxy):
    proxy = fault_proxy(fresh_url)
    async with process(proxy.url(fresh_url), write_deadline_s=1.0) as gone, process(fresh_url) as other:
        await gone.store.append_batch([message("a")])

        def lock_and_fall_silent(conn):
            conn.exec_driver_sql("SELECT * FROM room_heads WHERE room_id = 'a' FOR UPDATE").all()
            proxy.half_open()
            conn.exec_driver_sql("SELECT 1")

        with pytest.raises(StoreUnavailable):
            await gone.database.write(lock_and_fall_silent)
        assert (await other.until_stored([message("a")])).stored[0].seq == 2
    await assert_sound(fresh_url, 2)


async def test_a_server_that_accepts_and_says_nothing_is_given_up(fresh_url, fault_proxy, monkeypatch):
    monkeypatch.setattr(pools, "CONNECT_DEADLINE_S", 0.3)
    proxy = fault_proxy(fresh_url)
    proxy.half_open()
    async with process(proxy.url(fresh_url)) as mine:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await mine.store.ping()
        with pytest.raises(StoreUnavailable):
            await SqlMessageReader(mine.database).heads(["a"])
        assert time.monotonic() - begin < 0.6 + SLACK_S
        proxy.heal()
        await mine.store.ping()


async def test_links_cut_again_and_again_lose_and_double_nothing(fresh_url, fault_proxy):
    proxy = fault_proxy(fresh_url)
    todo = batches(48, 30)
    async with process(proxy.url(fresh_url)) as mine:
        answers = []
        for start in range(0, 48, 4):
            under_way = [asyncio.create_task(mine.until_stored(batch)) for batch in todo[start : start + 4]]
            sent = proxy.bytes_up
            await eventually(lambda sent=sent: proxy.bytes_up > sent, "nothing is sent")
            await asyncio.to_thread(proxy.cut)
            answers += await asyncio.gather(*under_way)
    assert [[each.message for each in answer.stored] for answer in answers] == todo
    await assert_sound(fresh_url, 1440)


# --- the server refuses


async def test_a_read_only_server_is_unavailable_for_writes_and_left_for_a_new_connection(maria_server, fresh_url):
    async with process(fresh_url) as mine:
        await mine.store.append_batch([message("a")])
        before = await mine.database.write(connection_id)
        maria_server.read_only(on=True)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await mine.store.append_batch([message("a")])
        assert await SqlMessageReader(mine.database).heads(["a"]) == {"a": 1}
        maria_server.read_only(on=False)
        assert await mine.database.write(connection_id) != before
        await mine.store.append_batch([message("a")])
    await assert_sound(fresh_url, 2)


async def test_a_ping_fails_on_a_read_only_server_for_all_but_those_who_may_write_all_the_same(maria_server, fresh_url):
    as_admin = maria_server.as_admin(fresh_url)
    async with process(fresh_url) as mine, process(as_admin) as admin:
        await mine.store.ping()
        maria_server.read_only(on=True)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await mine.store.ping()
        await admin.store.ping()
        maria_server.read_only(on=False)
        await mine.store.ping()
    await assert_sound(fresh_url, 0)


async def test_a_ping_waits_for_no_lock_and_writes_nothing(maria_server, fresh_url):
    async with process(fresh_url) as holder, process(fresh_url) as mine:
        await mine.store.append_batch([message("a"), message("b")])
        async with holder.database._writers.engine.begin() as conn:
            await conn.exec_driver_sql("SELECT * FROM room_heads FOR UPDATE")
            before = maria_server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_rows_updated'")
            async with asyncio.timeout(SLACK_S):
                await mine.store.ping()
            assert maria_server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_rows_updated'") == before


async def test_the_pools_say_what_is_in_use_and_who_waits(fresh_url):
    def slow(conn):
        conn.exec_driver_sql("SELECT SLEEP(0.5)")

    def metrics(pool):
        return attrs.astuple(mine.database.pools()[pool])

    async with process(fresh_url, writer_pool=2, reader_pool=3) as mine:
        assert metrics("writer") == (2, 0, 0, 0, 0)
        tasks = [asyncio.create_task(mine.database.write(slow)) for _ in range(5)]
        tasks += [asyncio.create_task(mine.database.read(slow)) for _ in range(2)]
        await eventually(lambda: metrics("writer") == (2, 2, 0, 2, 3), "writers")
        await eventually(lambda: metrics("reader") == (3, 2, 0, 2, 0), "readers")
        await asyncio.gather(*tasks)
        assert metrics("writer") == (2, 0, 2, 2, 0)
        assert metrics("reader") == (3, 0, 2, 2, 0)
        mine.database.evict()
        assert metrics("writer") == (2, 0, 0, 0, 0)


async def test_a_reader_cannot_write(fresh_url):
    def write(conn):
        conn.exec_driver_sql("INSERT INTO room_heads VALUES ('a', 1)")

    async with process(fresh_url) as mine:
        for run in (mine.database.read, mine.database.snapshot):
            with pytest.raises(StoreUnavailable, match="READ ONLY"):
                await run(write)
        assert await mine.database.read(row_ids) == []


# --- locks


async def test_a_deadlocked_transaction_runs_again_from_its_start(fresh_url):
    runs = []

    def lock(conn, first, second):
        runs.append(first)
        for room in (first, second):
            conn.exec_driver_sql("UPDATE room_heads SET last_seq = last_seq + 1 WHERE room_id = %s", (room,))
            if room == first and len(runs) <= 2:
                conn.exec_driver_sql("SELECT SLEEP(0.3)")
        return first

    async with process(fresh_url) as mine:
        await mine.store.append_batch([message("a"), message("b")])
        answers = await asyncio.gather(mine.database.write(lock, "a", "b"), mine.database.write(lock, "b", "a"))
        heads = await SqlMessageReader(mine.database).heads(["a", "b"])
    assert answers == ["a", "b"]
    assert len(runs) == 3
    assert heads == {"a": 3, "b": 3}


async def test_a_lock_is_waited_for_until_the_deadline_and_no_longer(fresh_url, monkeypatch):
    async with process(fresh_url) as holder, process(fresh_url, write_deadline_s=3.0) as mine:
        await mine.store.append_batch([message("a")])
        async with holder.database._writers.engine.begin() as conn:
            await conn.exec_driver_sql("SELECT * FROM room_heads FOR UPDATE")
            begin = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await mine.store.append_batch([message("a")])
            assert 2.5 < time.monotonic() - begin < 3.0 + SLACK_S
            given_up, roll_back = [], database.roll_back
            monkeypatch.setattr(database, "roll_back", lambda conn: (given_up.append(conn), roll_back(conn)))
            waiting = asyncio.create_task(mine.store.append_batch([message("a")]))
            await eventually(lambda: given_up, "the end of a wait for the lock, after which it waits again")
            assert not waiting.done()
        assert (await waiting).stored[0].seq == 2
    await assert_sound(fresh_url, 2)


async def test_an_interrupted_commit_is_unavailable_and_harms_nothing(maria_server, fresh_url):
    async with process(fresh_url) as holder, process(fresh_url) as mine:
        await mine.store.append_batch([message("a")])
        async with holder.database._writers.engine.begin() as conn:
            await conn.exec_driver_sql("SELECT * FROM room_heads FOR UPDATE")
            waiting = asyncio.create_task(mine.store.append_batch([message("a")]))
            found = "SELECT id FROM information_schema.processlist WHERE info LIKE '%FOR UPDATE' AND command = 'Query'"
            await eventually(lambda: maria_server.execute(found), "the commit waits for the lock")
            maria_server.execute(f"KILL QUERY {maria_server.execute(found)[0][0]}")
            with pytest.raises(StoreUnavailable):
                await waiting
        assert (await mine.store.append_batch([message("a")])).stored[0].seq == 2
    await assert_sound(fresh_url, 2)


# --- the caller gives up


async def test_an_append_cancelled_anywhere_is_whole_or_nothing(fresh_url):
    todo = batches(60, 5)
    async with process(fresh_url, writer_pool=2) as mine:
        for steps, batch in enumerate(todo):
            task = asyncio.create_task(mine.store.append_batch(batch))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        answers = [await mine.until_stored(batch) for batch in todo]
    assert all(answer.duplicates in {0, 5} for answer in answers)
    await assert_sound(fresh_url, 300)


async def test_a_cancelled_statement_takes_its_connection_with_it(fresh_url):
    def sleep(conn):
        conn.exec_driver_sql("SELECT SLEEP(30)")

    async with process(fresh_url, writer_pool=1, reader_pool=1) as mine:
        before = await mine.database.write(connection_id)
        task = asyncio.create_task(mine.database.write(sleep))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await mine.database.write(connection_id) != before


async def test_evicting_closes_what_is_idle_and_discards_what_is_in_use_on_return(fresh_url, raw_maria):
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"

    def slow(conn):
        conn.exec_driver_sql("SELECT SLEEP(0.3)")
        return connection_id(conn)

    async with process(fresh_url) as mine:
        await asyncio.gather(*(mine.store.append_batch([message(f"r{number}")]) for number in range(6)))
        busy = asyncio.create_task(mine.database.write(slow))
        await asyncio.sleep(0.1)
        mine.database.evict()
        await eventually(lambda: raw_maria(query) == [(1,)], "idle connections stay open")
        used = await busy
        await eventually(lambda: raw_maria(query) == [(0,)], "a connection in use survived its return")
        assert await mine.database.write(connection_id) != used
