"""What an operator types, and the one line that answers a mistake."""

import asyncio
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatflow import __version__
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.ports.messages import Message
from tests.harness.ports import free_port
from tests.harness.process import UpProcess, run_command


def get_json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.loads(response.read())


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def chatflow(tmp_path: Path) -> Run:
    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return run_command(tmp_path, {"CHATFLOW_DATA_DIR": str(tmp_path / "data")} | settings, *arguments)

    return run


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line that has these words."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert result.returncode == 2, result
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/chatflow.db"


def message(text: str = "hi", room: str = "lobby") -> Message:
    return Message(new_id(), room, 7, "ada", text, "TEXT", now_us(), now_us())


async def store(tmp_path: Path, *messages: Message) -> None:
    migrate.upgrade(url_of(tmp_path))
    database = open_database(url_of(tmp_path))
    try:
        await SqlMessageStore(database, now_us, summaries=True).append_batch(messages)
    finally:
        await database.close()


def test_version_and_help_name_every_command(chatflow: Run) -> None:
    assert chatflow("version").stdout == f"chatflow {__version__}\n"
    shown = chatflow("--help").stdout
    for command in ("up", "gateway", "processor", "api", "migrate", "config", "dlq", "audit", "version"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve",), ("serve",)),
        (("up", "--verbose"), ("--verbose",)),
        (("dlq", "lst"), ("lst", "list")),
        (("dlq", "list", "--limit", "0"), ("--limit", "1")),
        (("dlq", "show"), ("ID",)),
        (("audit", "--ledger"), ("--ledger", "argument")),
    ],
)
def test_a_wrong_command_or_option_is_one_line(
    chatflow: Run, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(chatflow(*arguments), *words, "--help")


def test_a_typo_in_a_setting_is_one_line_that_offers_the_right_name(chatflow: Run) -> None:
    refused(chatflow("up", CHATFLOW_GATEWAY_PROT="8080"), "CHATFLOW_GATEWAY_PROT", "CHATFLOW_GATEWAY_PORT")
    refused(chatflow("audit", CHATFLOW_PROFILE="O3"), "CHATFLOW_PROFILE", "O12")


@pytest.mark.parametrize("role", ["gateway", "processor"])
def test_a_role_apart_refuses_without_a_broker_and_names_the_variable(chatflow: Run, role: str) -> None:
    refused(chatflow(role), "CHATFLOW_BROKER_URL", "shared")


def test_the_api_apart_refuses_without_a_database_and_names_the_variable(chatflow: Run) -> None:
    refused(chatflow("api"), "CHATFLOW_DATABASE_URL")


def test_config_shows_values_and_sources_with_passwords_masked(chatflow: Run) -> None:
    result = chatflow("config", CHATFLOW_CACHE_URL="redis://:s3cret@cache.example/0", CHATFLOW_PARTITIONS="16")
    assert result.returncode == 0
    assert "s3cret" not in result.stdout
    row = next(line for line in result.stdout.splitlines() if "CHATFLOW_PARTITIONS" in line)
    assert "16" in row
    assert "environment" in row


def test_a_port_in_use_is_one_line_with_the_port(chatflow: Run) -> None:
    ports = [free_port() for _ in range(4)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        names = ("GATEWAY_PORT", "GATEWAY_HEALTH_PORT", "API_PORT", "PROCESSOR_HEALTH_PORT")
        settings = {f"CHATFLOW_{name}": str(port) for name, port in zip(names, ports, strict=True)}
        refused(chatflow("up", **settings), "CHATFLOW_GATEWAY_PORT", str(ports[0]), "in use")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("chattr"), reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_one_line(chatflow: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(chatflow("up", CHATFLOW_DATA_DIR=str(tmp_path / "file" / "data")), "CHATFLOW_DATA_DIR", "cannot be written")


def test_a_newer_schema_is_refused_in_one_line(chatflow: Run, tmp_path: Path) -> None:
    assert chatflow("migrate").returncode == 0
    with sqlite3.connect(tmp_path / "data" / "chatflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in ("up", "migrate", "audit"):
        refused(chatflow(command), "9999", "older than the database")


def test_a_file_that_is_no_database_is_refused_in_one_line(chatflow: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chatflow.db").write_text("not a database, " * 100)
    refused(chatflow("up"), "not a database")


def test_migrate_says_what_it_did_and_that_there_is_nothing_more(chatflow: Run) -> None:
    assert "applied 0001" in chatflow("migrate").stdout
    assert chatflow("migrate").stdout == "the schema is up to date\n"


def test_audit_without_a_database_says_where_it_looked(chatflow: Run) -> None:
    refused(chatflow("audit"), "no database", "CHATFLOW_DATA_DIR")


async def test_audit_passes_on_a_ledger_that_the_store_holds(chatflow: Run, tmp_path: Path) -> None:
    stored = [message(f"{number}", room) for number in range(50) for room in ("a", "7")]
    await store(tmp_path, *stored)
    ledger = tmp_path / "acks.jsonl"
    rows = [
        {"messageId": each.message_id, "roomId": f"room{each.room_id}"[-5:]} for each in stored if each.room_id == "7"
    ]
    ledger.write_text("\n".join(map(json.dumps, rows)) + "\n\n" + '{"messageId": "cut sho')
    result = chatflow("audit", "--ledger", str(ledger))
    assert result.stdout == (
        "audited 100 messages and 50 acks: 0 missing, 0 doubled, 0 misplaced, 0 gaps, "
        "0 wrong summaries, 0 lost commits\n"
    )
    assert result.returncode == 0


async def test_audit_finds_what_is_missing_misplaced_gapped_and_miscounted(chatflow: Run, tmp_path: Path) -> None:
    kept, moved, gone, lost = message("1"), message("2"), message("3"), message("4")
    await store(tmp_path, kept, moved, gone)
    with sqlite3.connect(tmp_path / "data" / "chatflow.db") as database:
        database.execute("DELETE FROM messages WHERE seq = 3")
        database.execute("UPDATE room_message_summary SET total_messages = 17")
    ledger = tmp_path / "acks.jsonl"
    acks = [(kept, "lobby"), (moved, "elsewhere"), (gone, "lobby"), (lost, "lobby")]
    ledger.write_text("".join(json.dumps({"messageId": m.message_id, "roomId": room}) + "\n" for m, room in acks))
    result = chatflow("audit", "--ledger", str(ledger))
    assert result.returncode == 1
    assert "2 missing, 0 doubled, 1 misplaced" in result.stdout
    for word in (gone.message_id, lost.message_id, moved.message_id, "elsewhere", "room_summary", "17"):
        assert word in result.stdout, word
    assert kept.message_id not in result.stdout
    assert ", 0 gaps" not in result.stdout


def test_a_ledger_that_is_not_one_is_refused_with_its_line(chatflow: Run, tmp_path: Path) -> None:
    chatflow("migrate")
    ledger = tmp_path / "acks.jsonl"
    ledger.write_text('{"messageId":"0190b5a0-0000-7000-8000-000000000000","roomId":"a"}\nnonsense\n')
    refused(chatflow("audit", "--ledger", str(ledger)), "line 2", "not JSON")
    refused(chatflow("audit", "--ledger", str(tmp_path / "nowhere")), "nowhere")


async def test_a_dead_letter_is_listed_shown_and_replayed_once(chatflow: Run, tmp_path: Path) -> None:
    await store(tmp_path, message("first"))
    late, poison = message("late"), message("x" * 5_000)
    database = open_database(url_of(tmp_path))
    try:
        for each in (late, poison):
            await SqlMessageStore(database, now_us, summaries=True).add_dead_letter(each, "a reason to look at")
    finally:
        await database.close()
    listed = chatflow("dlq", "list").stdout
    assert late.message_id in listed
    assert "a reason to look at" in listed
    shown = json.loads(chatflow("dlq", "show", "1").stdout)
    assert shown["original"]["text"] == "late"
    replayed = chatflow("dlq", "replay", "--all")
    assert replayed.returncode == 1
    assert f"{late.message_id} stored with seq 2" in replayed.stdout
    assert "1 stored, 1 refused" in replayed.stdout
    assert f"{late.message_id} stored with seq 2" in chatflow("dlq", "replay", "1").stdout
    assert late.message_id not in chatflow("dlq", "list").stdout
    assert late.message_id in chatflow("dlq", "list", "--resolved").stdout
    assert chatflow("audit").returncode == 0


def test_dlq_mistakes_are_one_line(chatflow: Run) -> None:
    chatflow("migrate")
    assert chatflow("dlq", "list").stdout == "no dead letters\n"
    refused(chatflow("dlq", "show", "99"), "99")
    refused(chatflow("dlq", "replay", "99"), "99")
    refused(chatflow("dlq", "replay"), "--all")
    for asked in ("show", "replay"):
        refused(chatflow("dlq", asked, "b-0123456789ab"), "b-0123456789ab", "CHATFLOW_BROKER_URL")
    assert json.loads(chatflow("dlq", "list", "--json").stdout) == []


async def test_up_reports_figures_that_it_has_measured(tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "data", {"CHATFLOW_PARTITIONS": "3"})
    up.start()
    try:
        await up.ready()
        await asyncio.to_thread(get_json, f"http://127.0.0.1:{up.ports[2]}/health")  # the processor's: it writes
        async with asyncio.timeout(10):  # it reports once a second
            while not (metrics := await up.get("/api/metrics"))["database"]["totalConnections"]:
                await asyncio.sleep(0.1)
        health = await asyncio.to_thread(get_json, f"http://127.0.0.1:{up.health_port}/health")
    finally:
        up.stop()
    for pool in ("database", "readerPool"):
        counts = metrics[pool]
        assert counts["totalConnections"] == counts["activeConnections"] + counts["idleConnections"] >= 1, counts
    assert metrics["redisCache"]["enabled"] is False
    assert health["service"] == "chatflow"
    assert health["serverId"]
    assert health["metrics"]["availableChannels"] == 3


async def test_up_prints_where_to_open_the_page_and_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "data")
    up.start()
    try:
        await up.ready()
        assert f"http://127.0.0.1:{up.api_port}/" in up.log_text
        assert f"ws://127.0.0.1:{up.gateway_port}/ws" in up.log_text
    finally:
        code = up.stop()
    assert code == 0
    assert "Traceback" not in up.log_text


def test_a_redis_url_that_makes_no_sense_is_refused_in_one_line(chatflow: Run) -> None:
    refused(chatflow("up", CHATFLOW_CACHE_URL="redis://127.0.0.1:many/0"), "CHATFLOW_CACHE_URL", "many")
