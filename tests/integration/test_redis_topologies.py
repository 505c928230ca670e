"""Real Sentinels and a real cluster: found by their URLs, followed when the keys move to another server."""

import asyncio
import contextlib
import socket
from urllib.parse import quote

import pytest
from redis.exceptions import ResponseError

from chatflow.adapters.redis.client import SLOT
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.fleet import RoleSnapshot
from tests.conftest import need
from tests.harness import RedisServer
from tests.harness.ports import LOOPBACK, free_port
from tests.harness.programs import absent
from tests.harness.waiting import eventually
from tests.integration.redis_cases import fill, first_answer, listening, process
from tests.integration.redis_topologies import (
    MASTER_NAME,
    ReplicaServer,
    SentinelServer,
    TlsServer,
    client,
    join_cluster,
    started,
    three_nodes,
    whole,
)

GENEROUS_S = 2.0


@pytest.fixture
async def cluster(redis_server, server_guard):
    """Three masters; ``redis_server`` says whether Redis is installed."""
    nodes = await asyncio.to_thread(three_nodes, server_guard)
    try:
        await join_cluster(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def cluster_url(nodes):
    """Begins with a node that is gone."""
    ports = [free_port(), *(node.port for node in nodes)]
    return f"redis+cluster://{','.join(f'{LOOPBACK}:{port}' for port in ports)}"


async def use_everything(services, processor):
    """Every port, once."""
    async with listening(services) as listener:
        await fill(services, "k", b"v", ("room:1", "user:2"))
        assert (await services.cache.get("k", ("room:1", "user:2"))).value == b"v"
        await processor.cache.invalidate(["user:2", "room:9"])
        assert (await services.cache.get("k", ("room:1", "user:2"))).value is None
        await eventually(lambda: ["user:2", "room:9"] in listener.heard, "not heard")
    lease = await services.leases.acquire("k", ttl_s=5)
    assert await processor.leases.acquire("k", ttl_s=5) is None
    await services.leases.release(lease)
    assert await services.leases.acquire("k", ttl_s=0.001) is not None
    await processor.fleet.report(RoleSnapshot("processor", "a", 1))
    assert await services.fleet.snapshots() == [RoleSnapshot("processor", "a", 1)]
    await services.cache.ping()


# --- Sentinel


async def test_a_promoted_replica_that_has_missed_an_invalidation_answers_nothing_old(redis_server, server_guard):
    master = started(RedisServer(server_guard))
    replica = started(ReplicaServer(server_guard, source=master))
    sentinel = started(SentinelServer(server_guard, master=master))
    silent = socket.create_server((LOOPBACK, 0))
    sentinels = f"{LOOPBACK}:{silent.getsockname()[1]},{LOOPBACK}:{sentinel.port}"
    url = f"redis+sentinel://{sentinels}/{MASTER_NAME}/0"
    try:
        await _replicates(replica)
        await _knows_a_replica(sentinel)
        async with process(url, timeout_s=GENEROUS_S) as reader, process(url, timeout_s=GENEROUS_S) as processor:
            await use_everything(reader, processor)
            async with listening(reader):
                await fill(reader, "k", b"old")
                await _has(replica, b"%b:value:k" % SLOT.encode())
                master.kill()  # and with it the invalidation that only the master got
                await eventually(lambda: not reader.feed.is_current(), "the end is not noticed")
                assert (await first_answer(reader, "k")).value is None
                await eventually(reader.feed.is_current, "the new master is not followed")
                await first_answer(processor, "x")
            await use_everything(reader, processor)
            async with client(replica) as raw:
                assert (await raw.role())[0] == b"master"
    finally:
        silent.close()
        for server in (sentinel, replica, master):
            server.kill()


async def _replicates(replica):
    async with client(replica) as raw:
        while (await raw.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.05)


async def _knows_a_replica(sentinel):
    async with client(sentinel) as raw:
        while not await raw.execute_command("SENTINEL", "REPLICAS", MASTER_NAME):
            await asyncio.sleep(0.05)


async def _has(replica, key):
    async with client(replica) as raw:
        while not await raw.exists(key):
            await asyncio.sleep(0.02)


# --- TLS


async def test_a_server_is_trusted_only_by_its_certificate_and_its_name(redis_server, server_guard):
    need(not absent("openssl"), "no openssl found")
    server = started(TlsServer(server_guard))
    password = quote(server.PASSWORD)

    def address(host, more=""):
        return f"rediss://:{password}@{host}:{server.port}?ssl_ca={server.certificate}{more}"

    try:
        async with (
            process(address("localhost"), timeout_s=GENEROUS_S) as reader,
            process(address(LOOPBACK, "&ssl_check_hostname=false"), timeout_s=GENEROUS_S) as processor,
        ):
            await use_everything(reader, processor)
        for url in (
            address(LOOPBACK),
            f"rediss://:{password}@localhost:{server.port}",
            f"rediss://:wrong@localhost:{server.port}?ssl_ca={server.certificate}",
            f"redis://:{password}@localhost:{server.port}",
        ):
            async with process(url, timeout_s=GENEROUS_S) as stranger:
                with pytest.raises(CacheUnavailable):
                    await stranger.cache.ping()
    finally:
        server.kill()


# --- cluster


async def test_every_port_works_on_a_cluster_that_is_learnt_from_any_node(cluster):
    async with (
        process(cluster_url(cluster[2:]), timeout_s=GENEROUS_S) as reader,
        process(cluster_url(cluster), timeout_s=GENEROUS_S) as processor,
    ):
        await use_everything(reader, processor)


async def test_keys_that_move_to_another_node_are_followed(cluster):
    async with (
        process(cluster_url(cluster), timeout_s=GENEROUS_S) as reader,
        process(cluster_url(cluster), timeout_s=GENEROUS_S) as processor,
    ):
        await fill(reader, "k", b"old")
        async with listening(reader) as listener:
            owner, heir = await _give_away_our_slot(cluster)
            assert (await first_answer(reader, "k")).value is None
            await fill(reader, "k", b"new")
            assert (await reader.cache.get("k", ("t",))).value == b"new"
            await processor.cache.invalidate(["t"])
            assert (await reader.cache.get("k", ("t",))).value is None
            await eventually(lambda: ["t"] in listener.heard, "not heard from the new owner")
        async with client(owner) as old, client(heir) as new:
            assert (await old.dbsize(), await new.dbsize() > 0) == (0, True)


async def test_a_node_that_dies_is_used_again_when_it_is_back(cluster):
    async with process(cluster_url(cluster), timeout_s=GENEROUS_S) as reader, listening(reader):
        await fill(reader, "k", b"old")
        owner = await _owner(cluster)
        owner.kill()
        with pytest.raises(CacheUnavailable):
            await reader.cache.get("k", ("t",))
        await asyncio.to_thread(owner.restart)
        await whole(cluster)
        assert (await first_answer(reader, "k")).value is None
        await eventually(reader.feed.is_current, "it is not followed again")
        await fill(reader, "k", b"new")
        assert (await reader.cache.get("k", ("t",))).value == b"new"


async def _slot(nodes):
    async with client(nodes[0]) as raw:
        return await raw.execute_command("CLUSTER", "KEYSLOT", SLOT)


async def _owner(nodes):
    for node in nodes:
        with contextlib.suppress(ResponseError):  # moved
            async with client(node) as raw:
                await raw.exists(SLOT)
                return node
    raise AssertionError("nobody has our slot")


async def _give_away_our_slot(nodes):
    slot, owner = await _slot(nodes), await _owner(nodes)
    heir = next(node for node in nodes if node is not owner)
    async with client(owner) as old, client(heir) as new:
        await old.flushall()
        name = await new.execute_command("CLUSTER", "MYID")
    for node in (heir, owner, *nodes):
        async with client(node) as raw:
            await raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
    return owner, heir
