"""``chatflow up`` as a process of its own, with its data in a directory that outlives it."""

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import orjson
from websockets.asyncio.client import ClientConnection, connect

from tests.harness.process import UpProcess


@contextlib.asynccontextmanager
async def running_server() -> AsyncIterator["UpServer"]:
    """A started server on free ports with a directory of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chatflow-pages-"))
    server = UpServer(UpProcess(folder))
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        shutil.rmtree(folder)


@attrs.define
class UpServer:
    """One deployment on fixed ports; it can be killed and started again and remembers its rooms."""

    process: UpProcess

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.process.api_port}"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self.process.gateway_port}/ws"

    async def start(self) -> None:
        """Start, and wait until the gateway and the pages answer."""
        self.process.start()
        await self.process.ready()

    async def kill(self) -> None:
        """SIGKILL: nothing gets to clean up."""
        await asyncio.to_thread(self.process.kill)

    async def stop(self) -> None:
        """SIGTERM, and wait for the drain."""
        await asyncio.to_thread(self.process.stop)

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


def _send(room: str, text: str) -> dict[str, str]:
    return {"op": "send", "ref": str(uuid.uuid4()), "room": room, "text": text, "ack": "stored"}


async def _acks(client: ClientConnection, count: int) -> None:
    while count > 0:
        frames = orjson.loads(await client.recv())
        for frame in frames if isinstance(frames, list) else [frames]:
            assert frame["op"] == "ack", frame
            count -= 1
