"""Roles in processes of their own: they wait for their servers, work together, and drain."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatflow.entrypoints.clocks import new_id
from tests.harness.fleet import Fleet
from tests.harness.process import RoleProcess
from tests.harness.proxy import FaultProxy
from tests.harness.waiting import eventually
from tests.harness.ws_client import session_at


@pytest.fixture
def fleet(tmp_path: Path, vhost_url: str, maria_url: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=2, processors=1, apis=1)
    yield fleet
    fleet.kill()


def start_behind(proxy: FaultProxy, vhost_url: str, role: RoleProcess) -> None:
    """Start a role that reaches its broker through the proxy."""
    role.settings = role.settings | {"CHATFLOW_BROKER_URL": proxy.url(vhost_url)}
    role.start()


async def logged(role: RoleProcess, event: str, *words: str) -> None:
    """Wait for an event in a role's log."""

    def is_there() -> bool:
        assert role.is_running, role.log_text
        return any(event in line and all(word in line for word in words) for line in role.log_text.splitlines())

    await eventually(is_there, f"{event} in the log of {role.name}")


async def ask(port: int, *frames: dict[str, object]) -> list[dict[str, object]]:
    """Say hello and these frames over ``/ws``; the answers, one for each frame."""
    async with session_at(port) as client:
        await client.send([*frames])
        return [await client.receive() for _ in frames]


async def test_roles_started_before_the_schema_wait_for_it_and_then_work_together(fleet: Fleet) -> None:
    for role in fleet.roles.values():
        role.start()
    for role in fleet.roles.values():
        await logged(role, "process.waiting", "database", "chatflow migrate")
    migrated = await asyncio.to_thread(fleet.run, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    for role in fleet.roles.values():
        await role.ready()
    one, other = fleet.of("gateway")
    message_id = new_id()
    send = {"op": "send", "ref": 1, "room": "lobby", "text": "hi", "id": message_id, "ack": "stored"}
    (ack,) = await ask(one.port, send)
    assert (ack["op"], ack["seq"], ack["id"]) == ("ack", 1, message_id)
    joined, message = await ask(other.port, {"op": "join", "ref": 2, "room": "lobby", "since": 0}, {"op": "nonsense"})
    assert (joined["op"], message["op"]) in {("joined", "error"), ("error", "joined")}
    codes = await fleet.stop()
    assert set(codes.values()) == {0}
    audited = fleet.run("audit")
    assert audited.stdout.startswith("audited 1 messages"), audited.stderr


async def test_a_message_reaches_members_on_every_gateway(fleet: Fleet) -> None:
    await fleet.start()
    one, other = fleet.of("gateway")
    async with session_at(other.port, user_id=8) as listener:
        await listener.send({"op": "join", "room": "lobby"})
        await listener.expect("joined")
        await ask(one.port, {"op": "send", "ref": 1, "room": "lobby", "text": "over there"})
        heard = await listener.expect("message")
    assert (heard["text"], heard["seq"]) == ("over there", 1)


async def test_a_role_waits_for_a_broker_that_is_not_there_yet_and_stops_when_asked(
    fleet: Fleet, fault_proxy: type[FaultProxy], vhost_url: str
) -> None:
    await asyncio.to_thread(fleet.run, "migrate")
    proxy = fault_proxy(vhost_url)
    proxy.refuse()
    waiting, stopped = fleet.of("gateway")
    for role in (waiting, stopped):
        start_behind(proxy, vhost_url, role)
        await logged(role, "process.waiting", "broker")
    assert stopped.stop() == 0
    events = [json.loads(line) for line in stopped.log_text.splitlines()]
    always = {"process.waiting", "process.started", "process.stopped", "process.few_descriptors"}
    assert [event["event"] for event in events if event["event"] not in always] == ["process.stopping"]
    proxy.heal()
    await waiting.ready()


async def test_a_role_waits_for_a_database_that_accepts_connections_and_does_not_answer(
    fleet: Fleet, fault_proxy: type[FaultProxy], maria_url: str
) -> None:
    await asyncio.to_thread(fleet.run, "migrate")
    proxy = fault_proxy(maria_url)
    proxy.half_open()
    (api,) = fleet.of("api")
    api.settings = api.settings | {"CHATFLOW_DATABASE_URL": proxy.url(maria_url), "CHATFLOW_READ_DEADLINE_S": "0.5"}
    api.start()
    await logged(api, "process.waiting", "database")
    proxy.heal()
    await api.ready()
    assert await asyncio.to_thread(api.stop) == 0


async def test_a_role_that_a_broker_accepts_and_does_not_answer_stops_when_asked(
    fleet: Fleet, fault_proxy: type[FaultProxy], vhost_url: str
) -> None:
    await asyncio.to_thread(fleet.run, "migrate")
    proxy = fault_proxy(vhost_url)
    proxy.half_open()
    role = fleet.of("gateway")[0]
    start_behind(proxy, vhost_url, role)
    await eventually(lambda: proxy.accepted, "a connection")
    assert await asyncio.to_thread(role.stop) == 0, role.log_text


async def test_the_read_side_starts_without_the_broker(
    fleet: Fleet, fault_proxy: type[FaultProxy], vhost_url: str
) -> None:
    await asyncio.to_thread(fleet.run, "migrate")
    proxy = fault_proxy(vhost_url)
    proxy.refuse()
    (api,) = fleet.of("api")
    start_behind(proxy, vhost_url, api)
    await api.ready()
    assert await asyncio.to_thread(api.stop) == 0


async def test_another_number_of_partitions_is_refused_in_one_line(fleet: Fleet) -> None:
    await fleet.start()
    other = fleet.another("gateway", "other", {"CHATFLOW_PARTITIONS": "16"})
    other.start()
    try:
        assert other.process is not None
        assert await asyncio.to_thread(other.process.wait, 30) == 2
    finally:
        other.kill()
    (line,) = [line for line in other.log_text.splitlines() if not line.startswith("{")]
    assert "8" in line
    assert "16" in line
