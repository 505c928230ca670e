"""Clients choose the shape of what is stored; no shape may keep an operator from auditing it."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event

from benchmarks.audit import SHAPES, Shape, fill_sqlite
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.sqlite.database import SqliteDatabase
from chatflow.ports.store import Finding

ROWS = 2_000
STEP = 100
"""Instructions of SQLite between two calls of its progress handler."""


async def audited(path: Path) -> tuple[int, list[Finding]]:
    """What the audit took, in instructions of SQLite's machine, and what it found."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    database = SqliteDatabase(str(path), readers=1)
    event.listen(database._read_engine, "connect", lambda driver, _: driver.set_progress_handler(count, STEP))
    try:
        total, findings = await SqlAuditor(database).recount(summaries=True)
    finally:
        await database.close()
    assert total
    return steps * STEP, findings


def damage(path: Path) -> None:
    """A summary of each pair in a room that does not exist, and a wrong one in each that does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(
            "INSERT INTO user_room_summary SELECT user_id, 'x' || room_id, 1, last_activity FROM user_room_summary"
        )
        database.execute("UPDATE user_room_summary SET message_count = message_count + 1")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_an_audit_of_twice_as_many_messages_takes_twice_as_long(tmp_path: Path, shape: Shape) -> None:
    small, large = tmp_path / "small.db", tmp_path / "large.db"
    for path, rows in ((small, ROWS), (large, 2 * ROWS)):
        fill_sqlite(path, shape, rows)
    (once, found), (twice, found_too) = await audited(small), await audited(large)
    assert found == found_too == []
    assert twice < 2.5 * once, f"{once} -> {twice}"
    for path in (small, large):
        damage(path)
    (once, found), (twice, found_too) = await audited(small), await audited(large)
    assert {each.check for each in found + found_too} == {"user_room_summary"}
    assert twice < 2.5 * once, f"damaged: {once} -> {twice}"
