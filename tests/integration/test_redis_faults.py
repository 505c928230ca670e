"""Redis is killed, stopped, slowed down and cut off: callers go on without it at once, and nothing stale comes back."""

import asyncio
import random
import time

import pytest
import redis.asyncio

from chatflow.adapters.redis import commands
from chatflow.domain.resilience.circuit_breaker import BreakerState
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.fleet import RoleSnapshot
from tests.harness.clock import FakeClock
from tests.harness.waiting import eventually
from tests.integration.redis_cases import SLACK_S, all_sent, fill, first_answer, listening, process


async def fails(call):
    begin = time.monotonic()
    with pytest.raises(CacheUnavailable):
        await call
    assert time.monotonic() - begin < SLACK_S


async def trip(services):
    while services.breaker.state is BreakerState.CLOSED:
        await fails(services.cache.get("k", ("t",)))


# --- what was kept when Redis went away


async def test_a_page_read_before_redis_restarted_empty_is_not_accepted_after_it(redis_server, redis_url):
    async with process(redis_url) as reader:
        await fill(reader, "k", b"old")
        before = (await reader.cache.get("k", ("t",))).version
        untagged = (await reader.cache.get("n", ())).version
        await asyncio.to_thread(redis_server.restart)
        assert (await first_answer(reader, "k")).value is None
        await reader.cache.put("k", b"old", tags=("t",), version=before, ttl_s=60)
        await reader.cache.put("n", b"old", tags=(), version=untagged, ttl_s=60)
        assert (await reader.cache.get("k", ("t",))).value is None
        assert (await reader.cache.get("n", ())).value is None
        await fill(reader, "k", b"new")
        assert (await reader.cache.get("k", ("t",))).value == b"new"


async def test_commits_that_redis_missed_while_it_was_stopped_are_told_before_it_is_used(redis_server, redis_url):
    async with process(redis_url) as reader, process(redis_url) as processor:
        await fill(reader, "k", b"old")
        redis_server.pause()
        await trip(processor)  # nothing of what follows waits in a socket
        await fails(processor.cache.invalidate(["t"]))
        await trip(reader)
        redis_server.resume()
        assert (await first_answer(reader, "k")).value is None
        await all_sent(processor)
        await fill(reader, "k", b"new")
        assert (await reader.cache.get("k", ("t",))).value == b"new"


async def test_a_failed_invalidation_reaches_readers_that_noticed_nothing(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as reader, process(proxy.url(redis_url)) as processor:
        await fill(reader, "k", b"old")
        proxy.half_open()
        await fails(processor.cache.invalidate(["t"]))
        assert (await reader.cache.get("k", ("t",))).value == b"old"
        proxy.heal()
        await all_sent(processor)
        assert (await reader.cache.get("k", ("t",))).value is None


async def test_everything_that_could_not_be_forgotten_is_owed(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as reader, process(proxy.url(redis_url)) as processor:
        await fill(reader, "k", b"old")
        proxy.half_open()
        await fails(processor.cache.invalidate(None))
        assert (await reader.cache.get("k", ("t",))).value == b"old"
        proxy.heal()
        await all_sent(processor)
        assert (await reader.cache.get("k", ("t",))).value is None


@pytest.mark.parametrize("end", ["pending", "open circuit"])
async def test_it_says_whether_it_can_be_used(redis_url, fault_proxy, end):
    proxy = fault_proxy(redis_url)
    async with process(proxy.url(redis_url)) as processor:
        assert processor.cache.is_available()
        proxy.half_open()
        await (trip(processor) if end == "open circuit" else fails(processor.cache.invalidate(["t"])))
        assert not processor.cache.is_available()
        proxy.heal()
        await all_sent(processor)
        await eventually(processor.cache.is_available, "it is still away")


async def test_a_process_that_ends_sends_its_pending_invalidations(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as reader:
        await fill(reader, "k", b"old")
        async with process(proxy.url(redis_url), breaker_reset_s=3600) as processor:
            proxy.half_open()
            await trip(processor)
            await fails(processor.cache.invalidate(["t"]))
            proxy.heal()
        assert (await reader.cache.get("k", ("t",))).value is None


async def test_a_quiet_reader_that_listens_forgets_what_a_dead_processor_never_told(redis_server, redis_url):
    async with process(redis_url) as reader, listening(reader):
        await fill(reader, "k", b"old")
        redis_server.pause()
        await eventually(lambda: not reader.feed.is_current(), "the silence is not noticed")
        await eventually(lambda: not reader.cache.commands.is_trusted, "the shared cache is still trusted")
        redis_server.resume()
        assert (await first_answer(reader, "k")).value is None


@pytest.mark.parametrize("fault", ["half_open", "stall", "refuse_and_cut"])
async def test_a_busy_reader_that_does_not_listen_forgets_it_too(redis_url, fault_proxy, fault):
    proxy = fault_proxy(redis_url)
    async with process(proxy.url(redis_url)) as reader, process(redis_url) as other:
        await fill(reader, "k", b"old")
        if fault == "refuse_and_cut":
            proxy.refuse()
            proxy.cut()
            await fails(reader.cache.get("k", ("t",)))
        else:
            getattr(proxy, fault)()
            await trip(reader)
        assert (await other.cache.get("k", ("t",))).value == b"old"
        proxy.heal()
        assert (await first_answer(reader, "k")).value is None
        assert (await other.cache.get("k", ("t",))).value is None


async def test_an_answer_on_its_way_when_redis_was_lost_from_sight_is_not_believed(redis_url):
    async with process(redis_url, breaker_reset_s=3600) as reader:
        await fill(reader, "k", b"old")
        asking = asyncio.create_task(reader.cache.get("k", ("t",)))
        await asyncio.sleep(0)
        reader.cache.commands.distrust()
        await fails(asking)


async def test_more_owed_tags_than_are_remembered_forget_everything(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as reader, process(proxy.url(redis_url)) as processor:
        await fill(reader, "k", b"old")
        proxy.half_open()
        await fails(processor.cache.invalidate([f"room:{n}" for n in range(commands.TAGS_PER_SCRIPT + 1)]))
        assert not processor.cache.commands._pending.tags
        proxy.heal()
        await all_sent(processor)
        assert (await reader.cache.get("k", ("t",))).value is None


async def test_what_comes_to_be_owed_while_it_is_told_is_told_again(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as other, listening(other) as listener, process(proxy.url(redis_url)) as mine:
        proxy.stall("down")
        mine.cache.commands.distrust()
        await eventually(lambda: len(listener.heard) == 2, "not published")
        assert not mine.cache.commands.is_trusted
        mine.cache.commands.distrust()
        mine.cache.commands._pending.add(["ignored"])
        proxy.heal()
        await eventually(lambda: len(listener.heard) > 2, "not published again")
        await all_sent(mine)
        assert set(listener.heard) == {None}


# --- what a fault costs


async def test_a_dead_redis_is_asked_nothing_while_the_circuit_is_open(redis_server, redis_url, monkeypatch):
    clock = FakeClock()
    async with process(redis_url, clock=clock, breaker_failures=3) as mine:
        redis_server.pause()
        for _ in range(3):
            clock.advance(0.3)
            await fails(mine.cache.get("k", ("t",)))
        assert mine.breaker.state is BreakerState.OPEN
        sent = []

        async def execute_command(*words):
            sent.append(words)

        monkeypatch.setattr(mine.cache.commands.client, "execute_command", execute_command)
        snapshot = RoleSnapshot("api", "a", 1)
        for call in (
            lambda: mine.cache.get("k", ("t",)),
            lambda: mine.cache.invalidate(["t"]),
            mine.cache.ping,
            lambda: mine.leases.acquire("k", ttl_s=1),
            lambda: mine.fleet.report(snapshot),
            mine.fleet.snapshots,
        ):
            await fails(call())
        assert sent == []


async def test_many_late_answers_at_once_count_as_one(redis_server, redis_url):
    async with process(redis_url, breaker_failures=2) as mine:
        await fill(mine, "k", b"v")
        redis_server.pause()
        await asyncio.gather(*(fails(mine.cache.get("k", ("t",))) for _ in range(30)))
        assert mine.breaker.state is BreakerState.CLOSED
        redis_server.resume()
        assert (await mine.cache.get("k", ("t",))).value == b"v"


async def test_a_slow_redis_is_given_up_within_the_deadline_and_used_when_it_is_quick_again(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    async with process(proxy.url(redis_url)) as mine:
        await fill(mine, "k", b"v")
        proxy.delay(2.0)
        begin = time.monotonic()
        await trip(mine)
        assert time.monotonic() - begin < SLACK_S
        proxy.heal()
        await first_answer(mine, "k")
        await fill(mine, "k", b"w")
        assert (await mine.cache.get("k", ("t",))).value == b"w"


async def test_a_process_starts_without_redis_and_uses_it_when_it_comes(redis_server, redis_url):
    redis_server.kill()
    async with process(redis_url) as mine:
        await fails(mine.cache.get("k", ("t",)))
        await fails(mine.cache.ping())
        await asyncio.to_thread(redis_server.make_ready)
        await first_answer(mine, "k")
        await mine.cache.ping()


async def test_cancelled_and_late_callers_never_leave_their_answers_to_others(redis_url, fault_proxy):
    proxy = fault_proxy(redis_url)
    rng = random.Random(7)
    async with process(proxy.url(redis_url), breaker_failures=10**6, connections=8) as mine:
        for n in range(20):
            await fill(mine, f"k{n}", str(n).encode() * 500)
        proxy.delay(0.002)
        answered = 0

        async def ask():
            nonlocal answered
            n = rng.randrange(20)
            try:
                async with asyncio.timeout(rng.choice([0.001, 0.004, 0.006, 0.02, 1])):
                    lookup = await mine.cache.get(f"k{n}", ("t",))
            except (TimeoutError, CacheUnavailable):
                return
            answered += 1
            assert lookup.value == str(n).encode() * 500

        for _ in range(60):
            await asyncio.gather(*(ask() for _ in range(20)))
        assert answered > 100
        pool = mine.cache.commands.client.connection_pool
        assert not pool._in_use_connections


async def test_what_the_server_refuses_is_no_more_than_unavailable(redis_url):
    async with process(redis_url) as mine, redis.asyncio.from_url(redis_url) as raw:
        await raw.set("{chatflow}:value:k", "somebody else's")
        await fails(mine.cache.get("k", ("t",)))
        assert (await mine.cache.get("l", ("t",))).value is None


async def test_everything_that_is_kept_has_an_end(redis_url):
    async with process(redis_url) as mine, redis.asyncio.from_url(redis_url) as raw:
        await fill(mine, "k", b"v")
        await mine.cache.invalidate(["t"])
        await mine.cache.get("k", ("t", "u"))
        await mine.leases.acquire("k", ttl_s=5)
        await mine.fleet.report(RoleSnapshot("api", "a", 1))
        keys = await raw.keys("*")
        assert len(keys) == 7
        assert [key for key in keys if await raw.pttl(key) < 0] == []


async def test_a_value_past_the_limit_is_not_kept(redis_url):
    async with process(redis_url) as mine:
        mine.cache.limit_value_bytes = 10
        await fill(mine, "k", b"x" * 11)
        assert (await mine.cache.get("k", ("t",))).value is None


async def test_instances_that_speak_another_language_are_left_out_and_the_dead_are_forgotten(redis_url):
    async with process(redis_url) as mine, redis.asyncio.from_url(redis_url) as raw:
        for n in range(100):
            await mine.fleet.report(RoleSnapshot("api", str(n), 1))
        for member in await raw.zrange("{chatflow}:fleet:spoke", 0, -1):
            await raw.zadd("{chatflow}:fleet:spoke", {member: 1})
        await mine.fleet.report(RoleSnapshot("api", "alive", 1))
        await raw.zadd("{chatflow}:fleet:spoke", {"odd": time.time() * 1000 + 60_000})
        await raw.hset("{chatflow}:fleet:said", "odd", '{"rolle": 1}')
        assert [snapshot.instance for snapshot in await mine.fleet.snapshots()] == ["alive"]
        assert await raw.hlen("{chatflow}:fleet:said") == 2


async def test_the_driver_speaks_resp3_through_hiredis(redis_url):
    async with process(redis_url) as mine:
        await mine.cache.ping()
        connection = await mine.cache.commands.client.connection_pool.get_connection()
        assert (type(connection._parser).__name__, connection.protocol) == ("_AsyncHiredisParser", 3)
        await connection.send_command("CLIENT", "INFO")
        assert b"resp=3" in await connection.read_response()
        await mine.cache.commands.client.connection_pool.release(connection)


async def test_a_script_that_the_server_knows_costs_one_round_trip(redis_url):
    async with process(redis_url, timeout_s=5) as services:
        await services.cache.get("key", ("tag",))
        sent = []
        client = services.cache.commands.client
        execute = client.execute_command

        async def counted(*words, **options):
            sent.append(words[0])
            return await execute(*words, **options)

        client.execute_command = counted
        await services.cache.get("key", ("tag",))
    assert sent == ["EVALSHA"]
