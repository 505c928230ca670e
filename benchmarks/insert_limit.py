"""The raw insert limit: how many rows per second the database takes when it does nothing else.

Four connections send transactions of 3,000 rows: a plain multi-row ``INSERT`` into ``messages`` and, in profiles that
have them, the upserts of the summary tables. Rows, statements and sums are made before the clock starts, sequence
numbers are given out without a lock, and nothing is looked up: what is measured is the server and the wire.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import asyncmy
import attrs
import uuid_utils
import uvloop
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.dialects import mysql

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.mysql.append import inserted_messages, merged
from chatflow.adapters.sql.mysql.database import writer_session
from chatflow.adapters.sql.mysql.multirow import BoundRow, MultiRow
from chatflow.adapters.sql.schema import room_message_summary, user_message_summary, user_room_summary
from chatflow.adapters.sql.summary_deltas import deltas_of
from tests.harness import Guard, MariaServer

WRITERS = 4
BATCH = 3_000
ROOMS, USERS = 20, 100_000
TEXT = "x" * 120
BEGIN_US = 1_795_000_000_000_000
GUESS_PER_S = 150_000
"""Rows that are made ahead, per second of measuring; when they run out, the measurement ends early."""
MARIADB = mysql.dialect(is_mariadb=True)

Statement = tuple[MultiRow, list[BoundRow]]
Transaction = list[Statement]


@attrs.frozen
class InsertLimit:
    """``rows_per_s`` over ``rows`` rows in ``took_s`` seconds."""

    rows: int
    took_s: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.took_s


async def measure(url: str, *, seconds: float = 5.0, summaries: bool = True, binary: bool = False) -> InsertLimit:
    """Fill a database of MariaDB, which should be empty, for at most ``seconds``.

    ``binary`` sends rows by MariaDB's bulk protocol instead of as text.
    """
    await asyncio.to_thread(migrate.upgrade, url)
    per_writer = max(1, int(seconds * GUESS_PER_S / BATCH / WRITERS))
    plans = [
        [prepared(each, binary=binary) for each in transactions(writer, per_writer, summaries)]
        for writer in range(WRITERS)
    ]
    connections = [await connected(url) for _ in range(WRITERS)]
    try:
        begin = time.perf_counter()
        counts = await asyncio.gather(*(write(*each, begin + seconds) for each in zip(connections, plans, strict=True)))
        return InsertLimit(sum(counts), time.perf_counter() - begin)
    finally:
        for connection in connections:
            await connection.ensure_closed()


def transactions(writer: int, count: int, summaries: bool) -> Iterator[Transaction]:
    """One writer's, over rooms of its own; users come in an order that no index likes."""
    rooms = [f"limit-{writer}-{number}" for number in range(ROOMS // WRITERS)]
    heads = dict.fromkeys(rooms, 0)
    numbers = itertools.count()
    for _ in range(count):
        rows = [_row(heads, rooms[number % len(rooms)], number, writer) for number in itertools.islice(numbers, BATCH)]
        yield [(inserted_messages(MARIADB), rows), *(_sums(rows) if summaries else [])]


def _row(heads: dict[str, int], room: str, number: int, writer: int) -> BoundRow:
    heads[room] += 1
    user = (number * 7_919 + writer * 104_729) % USERS + 1
    at = BEGIN_US + number * 50
    key = uuid_utils.uuid7().bytes
    return (room, heads[room], key, user, f"user{user}", "TEXT", TEXT, at - 40_000, at, "gateway-1", "127.0.0.1")


def _sums(rows: list[BoundRow]) -> list[Statement]:
    batch = deltas_of((row[0], row[3], row[4], row[8]) for row in rows)
    rooms = [(room, count, 0, latest) for room, count, latest in batch.rooms]
    tables = (room_message_summary, rooms), (user_room_summary, batch.pairs), (user_message_summary, batch.users)
    return [(merged(table, MARIADB), sums) for table, sums in tables]


def prepared(transaction: Transaction, *, binary: bool) -> list[tuple[str, list[BoundRow] | None]]:
    """Texts with their rows, or with the rows rendered into them."""
    if binary:
        return [(statement.head + statement.row + statement.tail, rows) for statement, rows in transaction]
    return [(statement.rendered(rows), None) for statement, rows in transaction]


async def connected(url: str) -> Any:
    """A driver's connection, set up as a processor's writers are."""
    at = make_url(url)
    return await asyncmy.connect(
        host=at.host,
        port=at.port,
        user=at.username,
        password=at.password,
        database=at.database,
        init_command=f"{writer_session(60.0)}, tx_isolation = 'READ-COMMITTED'",
        stmt_cache_size=16,
    )


async def write(connection: Any, plan: list[list[tuple[str, list[BoundRow] | None]]], until: float) -> int:
    """Run transactions until the time or the plan is over; the rows that were committed."""
    done = 0
    async with connection.cursor() as cursor:
        for transaction in plan:
            if time.perf_counter() >= until:
                break
            for text, rows in transaction:
                await (cursor.execute(text) if rows is None else cursor.executemany(text, rows))
            await connection.commit()
            done += BATCH
    return done


def main() -> None:
    """Measure all four ways on a private server."""
    console = Console(highlight=False)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    with Guard() as guard:
        server = MariaServer(guard, buffer_pool_bytes=2**30, log_file_bytes=2**30)
        server.make_ready()
        for summaries, binary in itertools.product((False, True), (False, True)):
            url = server.url(server.database())
            limit = uvloop.run(measure(url, seconds=seconds, summaries=summaries, binary=binary))
            named = f"{'with' if summaries else 'without'} summaries, {'binary' if binary else 'text'}"
            console.print(
                f"{named:28} {limit.rows_per_s:>10,.0f} rows/s  ({limit.rows:,} rows in {limit.took_s:.1f} s)"
            )
        server.kill()


if __name__ == "__main__":
    main()
