"""The real HTTP application on a free port, over a list store and memory adapters."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import attrs
import msgspec
from prometheus_client import CollectorRegistry

from chatflow.adapters.aiohttp.api import build_api
from chatflow.adapters.aiohttp.encoding import encode, encode_row
from chatflow.adapters.aiohttp.health import HealthReport
from chatflow.adapters.aiohttp.metrics import QueryCollector
from chatflow.adapters.aiohttp.server import HttpServer, serve
from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.fleet import RoleSnapshot
from tests.harness.clock import FakeClock
from tests.reading_fakes import ListStore, local_tier, query_service


@attrs.define
class Api:
    """What a test of the API needs."""

    http: aiohttp.ClientSession
    store: ListStore
    cache: MemoryCache
    feed: MemoryCommitFeed
    fleet: MemoryFleet
    clock: FakeClock
    queries: QueryService
    server: HttpServer | None = None
    report: HealthReport = HealthReport(ok=True, dependencies={"store": "up", "cache": "up"})  # noqa: RUF009 - frozen
    own: RoleSnapshot = RoleSnapshot("api", "me", 0)  # noqa: RUF009 - frozen

    @property
    def port(self) -> int:
        return self.server.port

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
        await self.feed.publish(CachePolicy().commit_of([stored]))
        return stored


@asynccontextmanager
async def open_api(*, listens=False, fallback=False, port_limits=None, **options) -> AsyncIterator[Api]:
    """Start it, with a local cache if it ``listens``; other ``options`` go to ``build_api``."""
    clock, store = FakeClock(), ListStore()
    cache, fleet = MemoryCache(clock), MemoryFleet(clock)
    feed = MemoryCommitFeed(cache)
    local = local_tier(clock, feed, encoders=(encode, encode_row)) if listens else None
    queries = query_service(store, clock=clock, encode=encode, local=local, shared=cache)
    registry = CollectorRegistry()
    registry.register(QueryCollector(queries.cache.metrics))
    api = Api(None, store, cache, feed, fleet, clock, queries)

    async def health() -> HealthReport:
        return api.report

    options.setdefault("fleet", fleet)
    app = build_api(queries, own=lambda: api.own, health=health, registry=registry, **options)
    api.server = await serve(app, host="127.0.0.1", port=0, limits=port_limits, fallback=fallback)
    following = asyncio.create_task(local.follow()) if local is not None else None
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.port}") as api.http:
            yield api
    finally:
        await queries.cache.close()
        if following is not None:
            following.cancel()
        await api.server.close()
