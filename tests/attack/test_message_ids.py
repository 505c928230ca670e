"""Nobody's message id takes another's place, and nobody's own id stands for two messages, over real processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatflow.entrypoints.clocks import new_id
from tests.harness.fleet import Fleet
from tests.harness.process import UpProcess, run_command
from tests.harness.ws_client import client_of, session_at

MALLORY, ADA, GRACE = 41, 42, 43


@attrs.frozen
class Site:
    """Gateways over one database."""

    directory: Path
    settings: dict[str, str]
    gateways: list[int]

    async def send(self, user_id: int, room: str, text: str, own: str, *, ack: str = "stored", at: int = 0) -> Any:
        """The answer to one send of a fresh connection."""
        async with session_at(self.gateways[at], user_id) as client:
            await client.send({"op": "send", "ref": 1, "room": room, "text": text, "id": own, "ack": ack})
            return await client.receive()

    async def chat(self, user_id: int, room: str, text: str, own: str) -> Any:
        """The reply to one frame of ``/chat``."""
        frame = {"userId": user_id, "username": f"user{user_id}", "message": text, "messageId": own}
        async with client_of(f"ws://127.0.0.1:{self.gateways[0]}/chat/{room}") as client:
            await client.send(frame | {"messageType": "TEXT", "timestamp": "2026-11-24T01:31:00.123Z"})
            return json.loads(await client.receive_text())

    async def history(self, room: str, head: int) -> list[tuple[int, str]]:
        """User and text of each message of a room that holds so many."""
        async with session_at(self.gateways[-1], 99) as client:
            await client.send({"op": "join", "room": room, "since": 0})
            assert (await client.expect("joined"))["head"] == head
            return [(each["userId"], each["text"]) for each in await client.collect("message", head)]

    async def audit(self, *acks: dict[str, object]) -> tuple[int, str]:
        """What ``chatflow audit`` says of a ledger, and its exit code."""
        ledger = self.directory / "acks.jsonl"
        ledger.write_text("".join(json.dumps(each) + "\n" for each in acks))
        done = await asyncio.to_thread(run_command, self.directory, self.settings, "audit", "--ledger", str(ledger))
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[UpProcess]:
    process = UpProcess(tmp_path)
    process.start()
    await process.ready()
    yield process
    process.kill()


@pytest.fixture
async def fleet(tmp_path: Path, vhost_url: str, maria_url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=2, processors=1)
    await fleet.start()
    yield fleet
    fleet.kill()


@pytest.fixture(params=["up", "fleet"])
def site(request: pytest.FixtureRequest) -> Site:
    if request.param == "up":
        up: UpProcess = request.getfixturevalue("up")
        return Site(up.directory, up.settings, [up.port])
    fleet: Fleet = request.getfixturevalue("fleet")
    ports = [each.port for each in fleet.of("gateway")]
    return Site(fleet.directory, fleet.common, ports)


async def test_an_id_belongs_to_its_sender_and_stands_for_one_message(site: Site) -> None:
    taken = new_id()
    await an_id_that_somebody_else_used_is_no_duplicate(site, taken)
    await a_repeat_is_acknowledged_with_its_first_place(site, taken)
    await another_text_or_room_is_a_conflict(site, taken)
    await a_plain_ack_tells_of_a_conflict_while_the_gateway_remembers(site)
    acks = [{"messageId": taken, "roomId": "lobby", "userId": ADA}, {"messageId": taken, "roomId": "den"}]
    code, said = await site.audit(*acks)
    assert code == 0, said


async def an_id_that_somebody_else_used_is_no_duplicate(site: Site, taken: str) -> None:
    first = await site.send(MALLORY, "den", "mine", taken)
    assert (first["op"], first["seq"]) == ("ack", 1)
    other_room = await site.send(ADA, "lobby", "dinner at eight?", taken)
    assert (other_room["op"], other_room["seq"]) == ("ack", 1)
    same_room = await site.send(GRACE, "den", "mine", taken)
    assert (same_room["op"], same_room["seq"]) == ("ack", 2)
    assert await site.history("lobby", 1) == [(ADA, "dinner at eight?")]
    assert await site.history("den", 2) == [(MALLORY, "mine"), (GRACE, "mine")]


async def a_repeat_is_acknowledged_with_its_first_place(site: Site, taken: str) -> None:
    for at in range(len(site.gateways)):
        again = await site.send(GRACE, "den", "mine", taken.upper(), at=at)
        assert (again["op"], again["seq"]) == ("ack", 2)


async def another_text_or_room_is_a_conflict(site: Site, taken: str) -> None:
    for at in range(len(site.gateways)):
        for room, text in (("den", "changed"), ("attic", "mine")):
            answer = await site.send(GRACE, room, text, taken, at=at)
            assert (answer["op"], answer.get("code"), answer.get("retryable")) == ("error", "conflict", False)
    assert await site.history("den", 2) == [(MALLORY, "mine"), (GRACE, "mine")]


async def a_plain_ack_tells_of_a_conflict_while_the_gateway_remembers(site: Site) -> None:
    own, chatted = new_id(), new_id()
    assert (await site.send(ADA, "hall", "first", own, ack="durable"))["op"] == "ack"
    assert (await site.send(ADA, "hall", "second", own, ack="durable"))["code"] == "conflict"
    assert (await site.send(ADA, "hall", "first", own, ack="durable"))["op"] == "ack"
    assert (await site.chat(ADA, "hall", "first", chatted))["status"] == "success"
    refused = await site.chat(ADA, "hall", "second", chatted)
    assert (refused["status"], "message id" in refused["errorMessage"]) == ("error", True)
    assert (await site.chat(MALLORY, "hall", "second", chatted))["status"] == "success"


async def test_up_tells_of_a_conflict_that_it_does_not_remember(up: UpProcess) -> None:
    own = new_id()
    site = Site(up.directory, up.settings, [up.port])
    assert (await site.send(ADA, "hall", "first", own, ack="durable"))["op"] == "ack"
    assert await asyncio.to_thread(up.stop) == 0
    up.start()
    await up.ready()
    assert (await site.chat(ADA, "hall", "second", own))["status"] == "error"
    assert (await site.send(ADA, "attic", "first", own, ack="durable"))["code"] == "conflict"
    assert (await site.send(ADA, "hall", "first", own, ack="durable"))["op"] == "ack"
    assert (await site.send(MALLORY, "hall", "second", own, ack="durable"))["op"] == "ack"
    assert await site.history("hall", 2) == [(ADA, "first"), (MALLORY, "second")]
