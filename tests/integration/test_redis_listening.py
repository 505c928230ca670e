"""A process follows the commits of others in order, or learns that it missed some."""

import asyncio
import time

import pytest
import redis.asyncio

from chatflow.adapters.redis.commands import channel_of
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import CacheUnavailable
from tests.harness.waiting import eventually
from tests.integration.redis_cases import fill, first_answer, listening, process
from tests.reading_fakes import ListStore

CHANNEL = channel_of(0)


async def test_tags_are_heard_in_order_after_anything_that_may_have_gone_unheard(redis_url):
    async with process(redis_url) as reader, process(redis_url) as processor, listening(reader) as listener:
        assert listener.heard == [None]
        for n in range(50):
            await processor.cache.invalidate([f"room:{n}", "user:1"])
        await eventually(lambda: len(listener.heard) == 51, "some were not heard")
        assert listener.heard[1:] == [[f"room:{n}", "user:1"] for n in range(50)]


async def test_what_is_told_in_another_numbered_database_is_not_heard(redis_url, redis_server):
    elsewhere = process(redis_server.url(1))
    async with elsewhere as stranger, process(redis_url) as reader, listening(reader) as listener:
        await stranger.feed.publish(Commit(("room:1",), (ListStore().add("1"),)))
        await reader.cache.invalidate(["room:2"])
        await eventually(lambda: ["room:2"] in listener.heard, "not heard")
        assert listener.heard == [None, ["room:2"]]
        assert listener.stored == []


async def test_nothing_is_current_before_and_after_following(redis_url):
    async with process(redis_url) as reader:
        assert not reader.feed.is_current()
        async with listening(reader):
            assert reader.feed.is_current()
        assert not reader.feed.is_current()


async def test_a_quiet_listener_stays_current(redis_url):
    async with process(redis_url) as reader, listening(reader) as listener:
        for _ in range(30):
            await asyncio.sleep(0.05)
            assert reader.feed.is_current()
        assert listener.heard == [None]


async def test_what_is_said_in_an_unknown_way_stands_for_everything(redis_url):
    async with process(redis_url) as reader, redis.asyncio.from_url(redis_url) as raw, listening(reader) as listener:
        await raw.publish(CHANNEL, b"\xff{")
        await raw.publish(CHANNEL, b'["t"]')
        await raw.publish(CHANNEL, b'{"tags":["t"]}')
        await eventually(lambda: len(listener.heard) == 4, "not heard")
        assert listener.heard == [None, None, None, ["t"]]


async def test_the_messages_of_a_commit_are_heard_with_its_tags(redis_url):
    store = ListStore()
    stored = [store.add("5", text=text) for text in ("hi", 'a "quoted" \u2028 \U0001f600', "")]
    async with process(redis_url) as processor, process(redis_url) as reader, listening(reader) as listener:
        await processor.feed.publish(Commit(("room:5",), tuple(stored)))
        await eventually(lambda: len(listener.heard) == 2, "not heard")
        assert listener.stored == stored


@pytest.mark.parametrize("fault", ["cut", "half_open", "stall"])
async def test_a_lost_connection_is_noticed_and_replaced_and_the_shared_cache_is_not_trusted(
    redis_url, fault_proxy, fault
):
    proxy = fault_proxy(redis_url)
    async with process(redis_url) as other, process(proxy.url(redis_url)) as reader, listening(reader) as listener:
        await fill(other, "k", b"old")
        getattr(proxy, fault)()
        if fault != "cut":
            await eventually(lambda: not reader.feed.is_current(), "the silence is not noticed")
            await eventually(lambda: not reader.cache.commands.is_trusted, "the shared cache is still trusted")
            proxy.heal()
        await eventually(lambda: len(listener.heard) > 1 and reader.feed.is_current(), "not replaced")
        assert listener.heard[1] is None
        assert (await first_answer(reader, "k")).value is None
        await other.cache.invalidate(["t"])
        await eventually(lambda: ["t"] in listener.heard, "the new connection hears nothing")


async def test_a_restart_of_redis_is_a_loss(redis_server, redis_url):
    async with process(redis_url) as reader, listening(reader) as listener:
        redis_server.kill()
        await eventually(lambda: not reader.feed.is_current(), "the end is not noticed")
        await asyncio.to_thread(redis_server.restart)
        await eventually(reader.feed.is_current, "it is not followed again")
        assert listener.heard[1] is None


async def test_a_listener_that_reads_too_little_is_cut_off_by_the_server_and_hears_that(redis_url):
    """What waits for it is bounded there; nothing waits in the process."""
    async with process(redis_url) as reader, redis.asyncio.from_url(redis_url) as raw:
        await raw.config_set("client-output-buffer-limit", "pubsub 1mb 0 0")
        try:
            async with listening(reader) as listener:
                with redis.Redis.from_url(redis_url) as blocking:  # this process reads nothing meanwhile
                    for _ in range(400):
                        blocking.publish(CHANNEL, b'["' + b"x" * 65_000 + b'"]')
                await eventually(lambda: None in listener.heard[1:], "the loss is not heard")
                await eventually(reader.feed.is_current, "it is not followed again")
        finally:
            await raw.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")


async def test_hundreds_of_tags_a_batch_are_heard_whole(redis_url):
    batch = [f"room:{n}" for n in range(200)]
    async with process(redis_url) as reader, process(redis_url) as processor, listening(reader) as listener:
        for _ in range(200):
            await processor.cache.invalidate(batch)
        await eventually(lambda: len(listener.heard) == 201, "some were not heard")
        assert listener.heard[1:] == [batch] * 200


async def test_cancelling_the_follower_ends_its_connection(redis_url):
    async with process(redis_url) as reader, redis.asyncio.from_url(redis_url) as raw:
        async with listening(reader):
            assert (await raw.pubsub_numsub(CHANNEL))[0][1] == 1
        deadline = time.monotonic() + 10
        while (await raw.pubsub_numsub(CHANNEL))[0][1]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_what_everything_means_is_told_to_every_listener(redis_url):
    async with process(redis_url) as one, process(redis_url) as two, listening(two) as listener:
        one.cache.commands.distrust()
        await eventually(lambda: len(listener.heard) == 2, "not heard")
        assert listener.heard == [None, None]
        with pytest.raises(CacheUnavailable):
            two.cache.commands.distrust()
            await two.cache.get("k", ())
