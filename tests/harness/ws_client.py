import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import attrs
import msgspec
from websockets.asyncio.client import ClientConnection, connect

DEADLINE_S = 30.0
OPTIONS = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None, "close_timeout": 1}


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@attrs.define(eq=False)
class WsClient:
    """A well-behaved client: objects in, objects out, arrays taken apart."""

    connection: ClientConnection
    _ahead: deque[dict[str, Any]] = attrs.field(factory=deque, init=False)

    async def hello(self, user_id: int = 7, username: str | None = None) -> dict[str, Any]:
        await self.send({"op": "hello", "userId": user_id, "username": username or f"user{user_id}"})
        return await self.expect("welcome")

    async def send(self, *values: Any) -> None:
        for value in values:
            await self.connection.send(encode(value))

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def receive_text(self) -> str:
        async with asyncio.timeout(DEADLINE_S):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return text

    async def receive(self) -> dict[str, Any]:
        while not self._ahead:
            value = msgspec.json.decode(await self.receive_text())
            self._ahead.extend(value if isinstance(value, list) else [value])
        return self._ahead.popleft()

    async def expect(self, op: str) -> dict[str, Any]:
        """The next object, which must be this one."""
        value = await self.receive()
        assert value["op"] == op, value
        return value

    async def collect(self, op: str, count: int) -> list[dict[str, Any]]:
        """The next so many of a kind; others in between are dropped."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            value = await self.receive()
            if value["op"] == op:
                found.append(value)
        return found

    async def silence(self) -> None:
        """Nothing was sent up to now: a ping comes back, and no frame came before it."""
        async with asyncio.timeout(DEADLINE_S):
            await (await self.connection.ping())
        assert not self._ahead
        assert len(self.connection.recv_messages.frames) == 0

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for the end, whatever comes before; its code and reason."""
        async with asyncio.timeout(DEADLINE_S):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@contextlib.asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[WsClient]:
    """A client of any path, closed at the end; ``options`` are those of ``websockets``."""
    async with connect(url, proxy=None, **(OPTIONS | options)) as connection:
        yield WsClient(connection)


@contextlib.asynccontextmanager
async def session_at(port: int, user_id: int = 7) -> AsyncIterator[WsClient]:
    """A client of the local gateway's ``/ws`` that has been welcomed."""
    async with client_of(f"ws://127.0.0.1:{port}/ws") as client:
        await client.hello(user_id)
        yield client
