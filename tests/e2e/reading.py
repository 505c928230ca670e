"""A fleet with two apis over one Redis, writers who know what is committed, and readers who check their answers."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import attrs

from tests.harness.fleet import Fleet
from tests.harness.waiting import eventually
from tests.harness.ws_client import WsClient, session_at

HARD_BOUND_S = 1.0
"""The longest life of a newest page in L1."""


@attrs.define(eq=False)
class Committed:
    """When which ``seq`` of each room was acknowledged as stored."""

    at: dict[str, list[float]] = attrs.field(factory=dict)

    def note(self, room: str, seq: int) -> None:
        times = self.at.setdefault(room, [])
        assert seq == len(times) + 1, "one writer per room"
        times.append(time.monotonic())

    def head(self, room: str) -> int:
        return len(self.at.get(room, ()))

    def staleness_s(self, room: str, head: int, asked_at: float) -> float:
        """How long before the question the first message that the answer lacks was committed."""
        times = self.at.get(room, [])
        return max(0.0, asked_at - times[head]) if head < len(times) else 0.0


@attrs.define(eq=False)
class Reading:
    """What readers met."""

    tiers: Counter[str] = attrs.field(factory=Counter)
    statuses: Counter[int] = attrs.field(factory=Counter)
    unwelcome: list[str] = attrs.field(factory=list)
    staleness_s: list[float] = attrs.field(factory=list)

    async def goes_on(self, *, answers: int, misses: int = 0) -> None:
        """Wait until so many more reads have been answered, and so many of them by the database."""
        answers, misses = self.statuses.total() + answers, self.tiers["miss"] + misses
        await eventually(
            lambda: self.statuses.total() >= answers and self.tiers["miss"] >= misses, f"{answers} reads: {self}"
        )

    def __str__(self) -> str:
        ordered = sorted(self.staleness_s) or [0.0]
        p99 = ordered[int(len(ordered) * 0.99)]
        words = f"{len(ordered)} reads, stale p99 {p99 * 1000:.1f} ms, worst {ordered[-1] * 1000:.1f} ms"
        return f"{words}, {dict(self.tiers)}, {dict(self.statuses)}"


@attrs.define(eq=False)
class Site:
    """A running fleet, seen from outside."""

    fleet: Fleet
    http: list[aiohttp.ClientSession]
    committed: Committed = attrs.field(factory=Committed)

    async def page(self, api: int, room: str, limit: int = 1, **more: str | int) -> tuple[int, str, list[int]]:
        """Status, tier and the ``seq``s of a page."""
        query = {"roomId": room, "limit": str(limit)} | {name: str(value) for name, value in more.items()}
        async with self.http[api].get("/api/messages/room", params=query) as response:
            body = await response.json()
            return (
                response.status,
                response.headers.get("X-Cache", ""),
                [row["seq"] for row in body.get("messages", ())],
            )

    async def metrics(self, api: int) -> dict[str, Any]:
        """What this api says of the fleet."""
        async with self.http[api].get("/api/metrics") as response:
            return dict(await response.json())

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator["Writer"]:
        """Somebody who sends over the gateway and waits for each message to be stored."""
        async with session_at(self.fleet.of("gateway")[0].port) as client:
            yield Writer(client, self.committed)

    async def write_for_ever(self, room: str) -> None:
        async with self.writer() as writer:
            while True:
                await writer.write(room)

    async def read_for_ever(self, api: int, rooms: list[str], reading: Reading) -> None:
        while True:
            room, asked_at = random.choice(rooms), time.monotonic()
            query = {"roomId": room, "limit": "1"}
            async with self.http[api].get("/api/messages/room", params=query) as response:
                body = await response.json()
                reading.statuses[response.status] += 1
                if response.status == 200:
                    reading.tiers[response.headers["X-Cache"]] += 1
                    head = body["messages"][0]["seq"] if body["messages"] else 0
                    reading.staleness_s.append(self.committed.staleness_s(room, head, asked_at))
                elif response.status != 503 or "Retry-After" not in response.headers:
                    reading.unwelcome.append(f"{response.status} {body}")
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def busy(self, rooms: list[str], readers: int = 2) -> AsyncIterator[Reading]:
        """Meanwhile one writer in each room, and readers of all of them on both apis."""
        reading = Reading()
        tasks = [asyncio.create_task(self.write_for_ever(room)) for room in rooms]
        tasks += [
            asyncio.create_task(self.read_for_ever(api, rooms, reading)) for api in (0, 1) for _ in range(readers)
        ]
        try:
            yield reading
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [each for each in outcomes if not isinstance(each, asyncio.CancelledError)]

    async def hits_come(self, api: int, room: str) -> None:
        """Wait until this api answers from its own cache."""
        async with asyncio.timeout(20):
            while (await self.page(api, room))[1] != "l1":
                await asyncio.sleep(0.02)


@attrs.define(eq=False)
class Writer:
    """One connection."""

    client: WsClient
    committed: Committed
    _refs: "itertools.count[int]" = attrs.field(factory=itertools.count)

    async def write(self, room: str) -> int:
        """The ``seq`` of a message that is stored by now."""
        await self.client.send({"op": "send", "ref": next(self._refs), "room": room, "text": "hi", "ack": "stored"})
        answer = await self.client.expect("ack")
        self.committed.note(room, answer["seq"])
        return int(answer["seq"])


@contextlib.asynccontextmanager
async def open_site(fleet: Fleet) -> AsyncIterator[Site]:
    """Start the fleet; kill it at the end."""
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(fleet.kill)
        await fleet.start()
        sessions = [
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    f"http://127.0.0.1:{api.port}", connector=aiohttp.TCPConnector(limit=600, force_close=False)
                )
            )
            for api in fleet.of("api")
        ]
        site = Site(fleet, sessions)
        yield site
