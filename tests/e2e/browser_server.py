"""``chatflow up`` as a process of its own, with its data in a directory that outlives it."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import orjson
from websockets.asyncio.client import ClientConnection, connect

START_PATIENCE_S = 45.0
STOP_PATIENCE_S = 30.0
PORTS = (
    "CHATFLOW_GATEWAY_PORT",
    "CHATFLOW_GATEWAY_HEALTH_PORT",
    "CHATFLOW_API_PORT",
    "CHATFLOW_PROCESSOR_HEALTH_PORT",
)


@contextlib.asynccontextmanager
async def running_server() -> AsyncIterator["UpServer"]:
    """A started server on free ports with a directory of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chatflow-pages-"))
    server = UpServer(folder / "data", dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)))
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        shutil.rmtree(folder)


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; fixed, since the server must come back on the same ones."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@attrs.define
class UpServer:
    """One deployment on fixed ports; it can be killed and started again and remembers its rooms."""

    data_dir: Path
    ports: dict[str, int]
    _process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['CHATFLOW_API_PORT']}"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self.ports['CHATFLOW_GATEWAY_PORT']}/ws"

    async def start(self) -> None:
        """Start, and wait until the gateway and the pages answer."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}
        env |= {"CHATFLOW_DATA_DIR": str(self.data_dir)} | {name: str(port) for name, port in self.ports.items()}
        code = "from chatflow.entrypoints.cli import main; main()"
        with (self.data_dir.parent / "up.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, "up", env=env, stdout=log, stderr=log, cwd=self.data_dir.parent
            )
        deadline = time.monotonic() + START_PATIENCE_S
        while not await self._is_healthy():
            assert self._process.returncode is None, (self.data_dir.parent / "up.log").read_text()
            assert time.monotonic() < deadline, "chatflow up did not become healthy"
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL: nothing gets to clean up."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and wait for the drain; does nothing when it has gone."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_PATIENCE_S)
        except TimeoutError:
            await self.kill()

    async def say(self, room: str, texts: list[str], *, user_id: int = 77, username: str = "seeder") -> None:
        """Send as another client and return once all is stored."""
        async with connect(self.gateway_url) as client:
            await client.send(orjson.dumps({"op": "hello", "userId": user_id, "username": username}).decode())
            await client.recv()
            for start in range(0, len(texts), 50):
                chunk = texts[start : start + 50]
                await client.send(orjson.dumps([_send(room, text) for text in chunk]).decode())
                await _acks(client, len(chunk))

    async def stored(self, room: str) -> list[dict[str, Any]]:
        """Every stored message of a room, oldest first, as REST tells."""
        async with aiohttp.ClientSession() as session:
            rows: list[dict[str, Any]] = []
            params = {"roomId": room, "limit": "1000"}
            while True:
                async with session.get(f"{self.url}/api/messages/room", params=params) as response:
                    page = await response.json()
                rows += page["messages"]
                if "nextCursor" not in page:
                    return rows[::-1]
                params["cursor"] = page["nextCursor"]

    async def _is_healthy(self) -> bool:
        health = f"http://127.0.0.1:{self.ports['CHATFLOW_GATEWAY_HEALTH_PORT']}/health"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(health) as gateway,
                session.get(f"{self.url}/config.json") as pages,
            ):
                return gateway.status == 200 and pages.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def _send(room: str, text: str) -> dict[str, str]:
    return {"op": "send", "ref": str(uuid.uuid4()), "room": room, "text": text, "ack": "stored"}


async def _acks(client: ClientConnection, count: int) -> None:
    while count > 0:
        frames = orjson.loads(await client.recv())
        for frame in frames if isinstance(frames, list) else [frames]:
            assert frame["op"] == "ack", frame
            count -= 1
