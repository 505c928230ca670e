"""``chatflow dlq replay`` beside a running ``chatflow up``: what is replayed goes the way of every message."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.ports.messages import Message
from tests.harness.process import UpProcess

PAGE = "/api/messages/room?roomId=lobby"
NEVER_S = "600"
"""Gateways find what was stored behind their backs that seldom, so that only live delivery can show it."""


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[UpProcess]:
    process = UpProcess(tmp_path / "data", {"CHATFLOW_RESYNC_S": NEVER_S})
    process.start()
    try:
        await process.ready()
        yield process
    finally:
        process.stop()


def dead(text: str) -> Message:
    return Message(new_id(), "lobby", 7, "ada", text, "TEXT", now_us(), now_us())


async def add_dead_letters(up: UpProcess, *messages: Message) -> None:
    database = open_database(f"sqlite:///{up.data_dir}/chatflow.db")
    try:
        for message in messages:
            await SqlMessageStore(database, now_us, summaries=True).add_dead_letter(message, "a reason")
    finally:
        await database.close()


async def frames(ws: ClientConnection, op: str, count: int) -> list[dict[str, Any]]:
    """The next frames of this kind."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            value = json.loads(await ws.recv())
            found += [frame for frame in (value if isinstance(value, list) else [value]) if frame["op"] == op]
    return found


async def seqs_of(up: UpProcess) -> list[int]:
    return [message["seq"] for message in (await up.get(PAGE))["messages"]]


async def replay(up: UpProcess) -> tuple[int, str]:
    done = await asyncio.to_thread(up.run, "dlq", "replay", "--all")
    return done.returncode, done.stdout + done.stderr


async def test_a_replayed_message_reaches_listeners_in_order_and_ends_cached_answers(up: UpProcess) -> None:
    async with connect(f"ws://127.0.0.1:{up.gateway_port}/ws") as ws:
        send = {"op": "send", "room": "lobby", "ack": "stored"}
        hello = {"op": "hello", "userId": 8, "username": "bob"}
        await ws.send(json.dumps([hello, {"op": "join", "room": "lobby"}, send | {"text": "first"}]))
        assert [frame["text"] for frame in await frames(ws, "message", 1)] == ["first"]
        assert await seqs_of(up) == await seqs_of(up) == [1]  # the second one from a cache
        await add_dead_letters(up, dead("late"), dead("later"))
        code, output = await replay(up)
        assert (code, "2 stored, 0 refused" in output) == (0, True), output
        assert "stored with seq 3" in output
        assert await seqs_of(up) == [3, 2, 1]
        heard = await frames(ws, "message", 2)
        await ws.send(json.dumps(send | {"text": "last"}))
        heard += await frames(ws, "message", 1)
    assert [(frame["seq"], frame["text"]) for frame in heard] == [(2, "late"), (3, "later"), (4, "last")]


async def test_what_the_running_process_refuses_again_stays_a_dead_letter(up: UpProcess) -> None:
    await add_dead_letters(up, dead("x" * 5_000), dead("fine"))
    code, output = await replay(up)
    assert (code, "1 stored, 1 refused" in output) == (1, True), output
    left = await asyncio.to_thread(up.run, "dlq", "list", "--json")
    assert [row["retryCount"] for row in json.loads(left.stdout)] == [1]


async def test_a_replay_after_the_process_has_ended_stores_by_itself(up: UpProcess) -> None:
    await add_dead_letters(up, dead("late"))
    up.kill()
    code, output = await replay(up)
    assert (code, "1 stored" in output) == (0, True), output
