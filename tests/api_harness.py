"""The real HTTP application on a free port, over a list store and memory adapters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import attrs
import msgspec
from prometheus_client import CollectorRegistry

from chatflow.adapters.aiohttp.api import build_api
from chatflow.adapters.aiohttp.encoding import encode_answer
from chatflow.adapters.aiohttp.figures import QueryCollector
from chatflow.adapters.aiohttp.health import HealthReport
from chatflow.adapters.aiohttp.server import serve
from chatflow.adapters.memory.cache import MemoryCache
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.domain.cache_policy import CachePolicy
from chatflow.domain.querying import QueryService
from chatflow.ports.fleet import RoleSnapshot
from tests.reading_fakes import FakeClock, ListStore


@attrs.define
class Api:
    """What a test of the API needs."""

    http: aiohttp.ClientSession
    store: ListStore
    cache: MemoryCache
    fleet: MemoryFleet
    clock: FakeClock
    queries: QueryService
    port: int
    report: HealthReport = HealthReport(ok=True, dependencies={"store": "up", "cache": "up"})  # noqa: RUF009 - frozen
    own: RoleSnapshot = RoleSnapshot("api", "me", 0)  # noqa: RUF009 - frozen

    async def get(self, path: str, **headers: str):
        """Status, decoded JSON and headers."""
        async with self.http.get(path, headers=headers) as response:
            return response.status, msgspec.json.decode(await response.read()), response.headers

    async def body(self, path: str):
        """The decoded JSON of an answer that must be a good one."""
        status, body, _ = await self.get(path)
        assert status == 200, body
        return body

    async def commit(self, room_id: str, **fields):
        """Store and invalidate, as the processor does."""
        stored = self.store.add(room_id, **fields)
        await self.cache.invalidate(CachePolicy().touched([stored]))
        return stored


@asynccontextmanager
async def open_api(**options) -> AsyncIterator[Api]:
    """Start it; ``options`` go to ``build_api``."""
    clock, store = FakeClock(), ListStore()
    cache, fleet = MemoryCache(clock), MemoryFleet(clock)
    queries = QueryService(
        store, store, cache=cache, encode=encode_answer, clock=clock, draw=lambda: 0.5, sleep=clock.sleep
    )
    registry = CollectorRegistry()
    registry.register(QueryCollector(queries.figures))
    api = Api(None, store, cache, fleet, clock, queries, 0)

    async def health() -> HealthReport:
        return api.report

    options.setdefault("fleet", fleet)
    app = build_api(queries, own=lambda: api.own, health=health, registry=registry, **options)
    server = await serve(app, host="127.0.0.1", port=0)
    api.port = server.port
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as api.http:
        try:
            yield api
        finally:
            await queries.close()
    await server.close()
