"""What clients write may reach an operator's terminal; it must not steer it, nor hide what it is."""

import contextlib
import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.entrypoints.logs import configure_logs
from chatflow.ports.messages import Message
from tests.harness.process import run_command

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egpj.exe\u2066\u200f\x7f\r[bold]\n"
STEERING = "\x1b\x07\x9b\u202e\u2066\u200f\x7f\r"


def steers(output: str) -> set[str]:
    return set(output) & set(STEERING)


async def test_a_terminal_is_not_steered_by_dead_letters_or_findings(tmp_path: Path) -> None:
    path = tmp_path / "chatflow.db"
    migrate.upgrade(f"sqlite:///{path}")
    database = open_database(f"sqlite:///{path}")
    message = Message(new_id(), "lobby", 7, HOSTILE[:20], HOSTILE, "TEXT", now_us(), now_us())
    try:
        store = SqlMessageStore(database, now_us, summaries=True)
        await store.append_batch([message])
        await store.add_dead_letter(message, f"refused: {HOSTILE}")
    finally:
        await database.close()
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE user_message_summary SET username = ?", ("[red]\x1b[31m\u202e",))
        raw.commit()
    settings = {"CHATFLOW_DATA_DIR": str(tmp_path)}
    listed, shown, audited = (
        run_command(tmp_path, settings, *arguments) for arguments in (("dlq", "list"), ("dlq", "show", "1"), ("audit",))
    )
    for result in (listed, shown, audited):
        assert not steers(result.stdout + result.stderr), result
    assert "\\x1b[2J" in listed.stdout
    assert "\\u202e" in listed.stdout
    assert json.loads(shown.stdout)["original"]["text"] == HOSTILE
    assert "[red]\\x1b[31m\\u202e" in audited.stdout.replace(" ", "").replace("\n", "")


def fail() -> None:
    raise ValueError(HOSTILE)


@pytest.fixture
def logging_kept() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_a_terminal_is_not_steered_by_the_log(fmt: str, logging_kept: None) -> None:
    out = io.BytesIO()
    configure_logs(fmt=fmt, stream=out)
    log = structlog.get_logger()
    log.warning("frame.refused", reason=HOSTILE, nested={"why": [HOSTILE]})
    logging.getLogger("a.library").warning("it said %s", HOSTILE)
    try:
        fail()
    except ValueError:
        log.exception("it.failed")
    text = out.getvalue().decode()
    assert not steers(text), text
    assert "owned" in text
