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

from tests.harness.process import UpProcess
from tests.harness.ws_client import client_of


@contextlib.asynccontextmanager
async def running_server(**settings: str) -> AsyncIterator["UpServer"]:
    """A started server on free ports with a directory of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chatflow-pages-"))
    server = UpServer(UpProcess(folder, settings))
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
        async with client_of(self.gateway_url) as client:
            await client.hello(user_id, username)
            for start in range(0, len(texts), 50):
                chunk = texts[start : start + 50]
                await client.send([_send(room, text) for text in chunk])
                for _ in chunk:
                    await client.expect("ack")

    async def stored(self, room: str, token: str = "") -> list[dict[str, Any]]:
        """Every stored message of a room, oldest first, as REST tells."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession(headers=headers) as session:
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
