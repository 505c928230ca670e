"""What ``chatflow audit`` costs: a million messages in one room, in many, by one user, by many.

Messages are generated inside the database, in the order of its primary key, and the summaries counted there.
"""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from benchmarks.fill import AT_LEISURE_S, DAYS, END_US, SUMS
from benchmarks.report import Report
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.schema import messages
from tests.harness.maria import MariaServer
from tests.harness.process import clean_environ, command

TARGET_S = 10.0
BEGIN_US = END_US - DAYS * 86_400_000_000


@attrs.frozen
class Shape:
    """How many rooms and users there are for each message; at least one."""

    name: str
    rooms: float
    users: float


SHAPES = (
    Shape("one room", rooms=0, users=1 / 200),
    Shape("one user in many rooms", rooms=0.3, users=0),
    Shape("many users in one room", rooms=0, users=0.3),
    Shape("a room for each message", rooms=1, users=1 / 200),
)
_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows} - 1)"
_ROWS = """
INSERT INTO messages {numbers}
SELECT {room_text}, n - (room * {rows} + {rooms} - 1) DIV {rooms} + 1, {key}, 1 + n % {users},
    {user_text}, 'TEXT', 'the quick brown fox jumps over the lazy dog', {at}, {at}, 'gateway-1', '127.0.0.1'
FROM (SELECT n, n * {rooms} DIV {rows} AS room FROM {source}) AS placed
"""
_REST = (
    *SUMS,
    "INSERT INTO room_heads SELECT room_id, MAX(seq) FROM messages GROUP BY room_id",
    """INSERT INTO commit_counts SELECT 'bench', CRC32(room_id) % 8, 8, SUM(last_seq), 0
    FROM room_heads GROUP BY CRC32(room_id) % 8""",
)


def statements(dialect: str, shape: Shape, rows: int) -> list[str]:
    """What fills a migrated, empty database."""
    rooms, users = max(int(rows * shape.rooms), 1), max(int(rows * shape.users), 1)
    if dialect == "mysql":
        texts = {
            "numbers": "",
            "source": f"(SELECT seq AS n FROM seq_0_to_{rows - 1}) AS numbers",  # noqa: S608 - a number
            "room_text": "CONCAT('r', LPAD(room, 9, '0'))",
            "user_text": f"CONCAT('user', 1 + n % {users})",
            "key": "UNHEX(LPAD(HEX(n), 32, '0'))",
            "at": f"TIMESTAMPADD(MICROSECOND, {BEGIN_US} + n * 1000, '1970-01-01')",
        }
        return [_ROWS.format(rows=rows, rooms=rooms, users=users, **texts), *_REST]
    texts = {
        "numbers": _NUMBERS.format(rows=rows),
        "source": "numbers",
        "room_text": "printf('r%09d', room)",
        "user_text": f"'user' || (1 + n % {users})",
        "key": "CAST(printf('%016d', n) AS BLOB)",
        "at": f"{BEGIN_US} + n * 1000",
    }
    sums = [text.replace("CONCAT('user', user_id)", "'user' || user_id") for text in _REST]
    return [_ROWS.format(rows=rows, rooms=rooms, users=users, **texts).replace("DIV", "/"), *sums]


@contextlib.contextmanager
def _indexed_later(execute: Callable[[str], object], drop: str) -> Iterator[None]:
    for index in messages.indexes:
        execute(drop.format(index.name))
    yield
    for index in messages.indexes:
        columns = ", ".join(column.name for column in index.columns)
        execute(f"CREATE INDEX {index.name} ON messages ({columns})")


def fill_sqlite(path: Path, shape: Shape, rows: int) -> None:
    """Create a database of this shape."""
    migrate.upgrade(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.create_function("CRC32", 1, lambda text: zlib.crc32(text.encode()), deterministic=True)
        database.execute("PRAGMA synchronous=OFF")
        database.execute("BEGIN")
        with _indexed_later(database.execute, "DROP INDEX {}"):
            for statement in statements("sqlite", shape, rows):
                database.execute(statement)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()


def fill_maria(maria: MariaServer, name: str, shape: Shape, rows: int) -> None:
    """Fill a migrated, empty database."""

    def execute(statement: str) -> None:
        maria.execute(f"SET unique_checks = 0; {statement}", name, timeout_s=AT_LEISURE_S)

    with _indexed_later(execute, "ALTER TABLE messages DROP INDEX {}"):
        for statement in statements("mysql", shape, rows):
            execute(statement)
    maria.execute("ANALYZE TABLE messages, room_heads, user_room_summary, room_message_summary", name)


@attrs.frozen
class AuditRun:
    """One ``chatflow audit``: what it said last, its seconds, those of the CPU, and its largest resident set."""

    said: str
    exit_code: int
    took_s: float
    cpu_s: float
    peak_bytes: int


def timed_audit(settings: Mapping[str, str]) -> AuditRun:
    """Run it as a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command("audit"), env=clean_environ(dict(settings)), stdout=output)  # noqa: S603 - ours
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took_s = time.perf_counter() - started
        output.seek(0)
        lines = output.read().decode().splitlines()
    return AuditRun(
        lines[-1] if lines else "", process.returncode, took_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    )


def bench_audit(console: Console, maria: MariaServer | None, rows: int) -> Report:
    """Fill and audit each shape on SQLite and, given a server, on MariaDB."""
    table = Table(
        "shape", "database", "fill", "audit", "CPU", "peak memory", "said", title=f"chatflow audit, {rows} messages"
    )
    failed = missed = 0
    for shape in SHAPES:
        for run, filled_s, name in _audits(maria, shape, rows):
            failed |= run.exit_code
            missed += run.took_s > TARGET_S
            figures = (
                f"{filled_s:.1f} s",
                f"{run.took_s:.1f} s",
                f"{run.cpu_s:.1f} s",
                f"{run.peak_bytes / 2**20:.0f} MiB",
            )
            table.add_row(shape.name, name, *figures, run.said.removeprefix("audited "))
    console.print(table)
    return Report(failed, {}, missed)


def _audits(maria: MariaServer | None, shape: Shape, rows: int) -> Iterator[tuple[AuditRun, float, str]]:
    with tempfile.TemporaryDirectory(prefix="chatflow-bench-") as directory:
        started = time.perf_counter()
        fill_sqlite(Path(directory) / "chatflow.db", shape, rows)
        filled_s = time.perf_counter() - started
        yield timed_audit({"CHATFLOW_DATA_DIR": directory}), filled_s, "SQLite"
    if maria is not None:
        name = maria.database()
        migrate.upgrade(maria.url(name))
        started = time.perf_counter()
        fill_maria(maria, name, shape, rows)
        filled_s = time.perf_counter() - started
        yield timed_audit({"CHATFLOW_DATABASE_URL": maria.url(name)}), filled_s, "MariaDB"
        maria.drop(name)
