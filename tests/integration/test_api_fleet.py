"""Health and metrics over real HTTP: of one process, and of the whole fleet."""

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry, Counter

from chatflow.adapters.aiohttp.health import HealthReport, build_health
from chatflow.adapters.aiohttp.server import serve
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.fleet import RoleSnapshot
from tests.api_harness import open_api

POOL = {"active", "idle", "total", "waiting"}
SECTIONS = {
    "throughput", "totals", "latency", "buffer", "database", "readerPool", "queryCache", "circuitBreaker", "consumer",
    "rooms", "redisCache", "uptime", "summaryTablesEnabled",
}  # fmt: skip


@pytest.fixture
async def api():
    async with open_api() as opened:
        yield opened


def processor(instance, *, circuit="CLOSED", **counters):
    return RoleSnapshot(
        "processor",
        instance,
        1,
        {
            "consumed": 60,
            "stored": 50,
            "duplicates": 8,
            "dead_lettered": 2,
            "batches": 10,
            "batch_us": 25_000,
            "write_us": 40_000,
            "dropped": 3,
            "consume_errors": 1,
        }
        | counters,
        {
            "buffered": 3,
            "insert_rate": 100.04,
            "writer_active": 2,
            "writer_total": 10,
            "uptime_s": 25,
            "batch_max_ms": 9,
        },
        {"circuitBreaker": circuit, "summaries": "on"},
    )


async def test_api_health_has_exactly_its_fields(api):
    status, body, _ = await api.get("/api/health")
    assert status == 200
    assert set(body) == {
        "status", "service", "circuitBreaker", "uptime", "dbConnections", "readerPool", "queryCache", "redisCache",
    }  # fmt: skip
    assert set(body["dbConnections"]) == set(body["readerPool"]) == POOL
    assert body["status"] == "healthy"


async def test_api_metrics_has_every_section(api):
    assert set(await api.body("/api/metrics")) == SECTIONS


async def test_metrics_sum_over_every_living_process(api):
    await api.fleet.report(processor("p1"))
    await api.fleet.report(processor("p2", consumed=100))
    gateway = RoleSnapshot("gateway", "g1", 1, {"messages_received": 7}, {"rooms": 2, "connections": 5, "uptime_s": 40})
    await api.fleet.report(gateway)
    body = await api.body("/api/metrics")
    assert body["totals"]["messagesInserted"] == 100
    assert body["totals"]["messagesAttempted"] == 120
    assert body["totals"]["duplicatesSkipped"] == 16
    assert body["totals"]["dlqMessages"] == 4
    assert body["totals"]["messagesReceived"] == 7
    assert body["consumer"]["messagesConsumed"] == 160
    assert body["consumer"]["consumeErrors"] == 2
    assert body["buffer"] == {"currentDepth": 6, "totalEnqueued": 160, "totalDropped": 6}
    assert body["throughput"]["currentInsertRate"] == 200.1
    assert body["throughput"]["overallThroughput"] == 2.5
    assert body["latency"] == {"avgBatchWriteMs": 4.0, "maxBatchWriteMs": 9.0, "avgDbBatchMs": 2.5}
    assert body["database"]["activeConnections"] == 4
    assert body["rooms"] == {"activeRooms": 2, "totalBroadcastConnections": 5}
    assert (body["uptime"], body["summaryTablesEnabled"]) == (40, True)


async def test_processes_that_died_leave_the_sums(api):
    await api.fleet.report(processor("p1"))
    api.clock.advance(6)
    assert (await api.body("/api/metrics"))["totals"]["messagesInserted"] == 0


async def test_this_process_counts_once_and_as_of_now(api):
    await api.fleet.report(RoleSnapshot("api", "me", 1, {"cache_l2_hits": 1}))
    api.own = RoleSnapshot("api", "me", 2, {"cache_l2_hits": 3, "cache_misses": 1}, states={"cache": "up"})
    cache = (await api.body("/api/metrics"))["redisCache"]
    assert cache == {"enabled": True, "available": True, "hits": 3, "misses": 1, "errors": 0, "hitRatio": 0.75}


async def test_a_cache_in_this_process_is_no_redis(api):
    counters = {"cache_l1_hits": 4, "cache_l2_hits": 3, "cache_misses": 1, "cache_errors": 0}
    api.own = RoleSnapshot("api", "me", 2, counters, states={"cache": "memory"})
    body = await api.body("/api/metrics")
    assert body["redisCache"] == {
        "enabled": False, "available": False, "hits": 0, "misses": 0, "errors": 0, "hitRatio": 0.0,
    }  # fmt: skip
    assert (body["queryCache"]["hits"], body["queryCache"]["misses"], body["queryCache"]["hitRatio"]) == (7, 1, 0.875)


class UnreachableFleet:
    async def snapshots(self):
        raise CacheUnavailable("down")


async def test_a_fleet_out_of_reach_leaves_this_process():
    async with open_api(fleet=UnreachableFleet()) as api:
        api.own = RoleSnapshot("api", "me", 2, {"cache_misses": 4}, states={"cache": "down"})
        for path in ("/api/metrics", "/api/health"):
            assert (await api.body(path))["redisCache"]["misses"] == 4


@pytest.mark.parametrize(
    ("circuit", "status"), [("CLOSED", "healthy"), ("OPEN", "degraded"), ("HALF_OPEN", "degraded")]
)
async def test_the_worst_breaker_decides(api, circuit, status):
    await api.fleet.report(processor("p1"))
    await api.fleet.report(processor("p2", circuit=circuit))
    code, body, _ = await api.get("/api/health")
    assert (code, body["status"], body["circuitBreaker"]) == (200, status, circuit)


async def test_without_the_cache_reads_go_on_degraded(api):
    api.report = HealthReport(ok=True, dependencies={"store": "up", "cache": "down"})
    code, body, _ = await api.get("/api/health")
    assert (code, body["status"]) == (200, "degraded")
    assert (await api.get("/health"))[0] == 200


async def test_without_the_store_health_is_503(api):
    api.report = HealthReport(ok=False, dependencies={"store": "down", "cache": "up"})
    code, body, _ = await api.get("/api/health")
    assert (code, body["status"]) == (503, "degraded")
    code, body, _ = await api.get("/health")
    assert (code, body) == (
        503,
        {"status": "unavailable", "role": "api", "dependencies": {"store": "down", "cache": "up"}},
    )


async def test_all_has_every_part_and_the_metrics(api):
    for _ in range(3):
        api.store.add("1")
    body = await api.body("/api/all")
    assert set(body) == {
        "query", "queryTimeMs", "cached", "systemMetrics", "coreQuery1_roomMessages", "coreQuery2_userHistory",
        "coreQuery3_activeUsers", "coreQuery4_userRooms", "analytics_messagesPerMinute", "analytics_topUsers",
        "analytics_topRooms", "analytics_participationPatterns", "totalMessagesInDB",
    }  # fmt: skip
    assert body["totalMessagesInDB"] == 3
    assert set(body["systemMetrics"]) == SECTIONS
    assert body["coreQuery1_roomMessages"]["count"] == len(body["coreQuery1_roomMessages"]["messages"]) == 3
    assert body["coreQuery2_userHistory"]["messages"][0]["roomId"] == "1"
    assert body["coreQuery3_activeUsers"]["count"] == 1
    assert body["coreQuery4_userRooms"]["rooms"][0]["messageCount"] == 3
    assert body["analytics_topUsers"] == [{"userId": 1, "username": "user1", "messageCount": 3}]


async def test_any_role_shows_its_health_and_metrics():
    registry = CollectorRegistry()
    Counter("chatflow_probe", "Probes.", registry=registry).inc(3)
    reports = [HealthReport(ok=True, dependencies={"broker": "up"}, details={"metrics": {"errors": 0}})]

    async def health():
        return reports[0]

    server = await serve(build_health("gateway", health, registry), host="127.0.0.1", port=0)
    try:
        async with ClientSession(f"http://127.0.0.1:{server.port}") as http:
            async with http.get("/health") as response:
                assert response.status == 200
                assert await response.json() == {
                    "status": "ok",
                    "role": "gateway",
                    "dependencies": {"broker": "up"},
                    "metrics": {"errors": 0},
                }
            async with http.get("/metrics") as response:
                assert "chatflow_probe_total 3.0" in await response.text()
                assert response.headers["Content-Type"].startswith("text/plain")
            async with http.get("/else") as response:
                assert (response.status, (await response.json())["error"]) == (404, "not_found")
            reports[0] = HealthReport(ok=False)
            async with http.get("/health") as response:
                assert response.status == 503
    finally:
        await server.close()


async def test_a_taken_port_is_the_callers_error(api):
    with pytest.raises(OSError, match="in use"):
        await serve(build_health("api", None, CollectorRegistry()), host="127.0.0.1", port=api.port)


async def test_a_closed_server_frees_its_port():
    app = build_health("api", None, CollectorRegistry())
    server = await serve(app, host="127.0.0.1", port=0)
    await server.close()
    again = await serve(build_health("api", None, CollectorRegistry()), host="127.0.0.1", port=server.port)
    await again.close()
    assert again.port == server.port
