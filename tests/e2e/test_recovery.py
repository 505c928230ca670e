"""A server that was away long enough to open a circuit is used again as soon as it is back, whatever the reset says."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.process import RoleProcess
from tests.harness.rabbit import RabbitServer
from tests.harness.waiting import eventually
from tests.harness.ws_client import WsClient, session_at

RESET = {"CHATFLOW_BREAKER_RESET_S": "3600"}
WAIT_S = 30.0


@pytest.fixture
async def fleet(tmp_path: Path, vhost_url: str, maria_url: str):
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=1, processors=1, settings=RESET)
    await fleet.start()
    yield fleet
    fleet.kill()


async def send(client: WsClient, **more: str) -> dict[str, Any]:
    await client.send({"op": "send", "ref": 1, "room": "lobby", "text": "hi", **more})
    return await client.receive()


async def tripped(role: RoleProcess) -> bool:
    """Whether the role's circuit has opened since it started."""

    def trips() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{role.health_port}/metrics", timeout=WAIT_S) as answer:
            found = re.search(r"breaker_trips_total (\d\S*)", answer.read().decode())
        assert found
        return float(found[1])

    return await asyncio.to_thread(trips) > 0


async def test_a_processor_stores_again_when_mariadb_is_back(fleet: Fleet, maria_server: MariaServer) -> None:
    (gateway,), (processor,) = fleet.of("gateway"), fleet.of("processor")
    async with session_at(gateway.port) as client, asyncio.timeout(2 * WAIT_S):
        assert (await send(client, ack="stored"))["seq"] == 1
        maria_server.kill()
        assert (await send(client))["op"] == "ack"
        await eventually(lambda: tripped(processor), "an open circuit")
        await asyncio.to_thread(maria_server.restart)
        while (answer := await send(client, ack="stored"))["op"] != "ack":
            assert answer["retryable"]


async def dependencies(role: RoleProcess) -> dict[str, str]:
    """What the role's ``/health`` says of each, whatever its status is."""

    def ask() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{role.health_port}/health", timeout=WAIT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as refusal:
            return bytes(refusal.read())

    return dict(json.loads(await asyncio.to_thread(ask))["dependencies"])


async def test_each_role_names_what_it_depends_on_and_a_stopped_database(
    fleet: Fleet, maria_server: MariaServer
) -> None:
    (gateway,), (processor,) = fleet.of("gateway"), fleet.of("processor")
    assert await dependencies(gateway) == {"broker": "up", "store": "up"}
    assert await dependencies(processor) == {"broker": "up", "store": "up", "cache": "off"}
    maria_server.pause()
    try:
        assert await dependencies(processor) == {"broker": "up", "store": "down", "cache": "off"}
        async with asyncio.timeout(WAIT_S):
            while (await dependencies(gateway))["store"] != "down":
                await asyncio.sleep(0.1)
        assert await gateway.is_fit(), "accepting messages needs the broker alone"
    finally:
        maria_server.resume()
    async with asyncio.timeout(WAIT_S):
        while "down" in {*(await dependencies(gateway)).values(), *(await dependencies(processor)).values()}:
            await asyncio.sleep(0.1)


async def test_a_gateway_accepts_again_when_rabbitmq_is_back(fleet: Fleet, rabbit_server: RabbitServer) -> None:
    (gateway,) = fleet.of("gateway")
    async with session_at(gateway.port) as client, asyncio.timeout(2 * WAIT_S):
        assert (await send(client))["op"] == "ack"
        await asyncio.to_thread(rabbit_server.settle)
        rabbit_server.kill()
        while not await tripped(gateway):
            assert (await send(client))["retryable"]
        await asyncio.to_thread(rabbit_server.restart)
        while (await send(client))["op"] != "ack":
            await asyncio.sleep(0.05)
