"""Each profile is a set of overrides over one graph; each must build, and each must answer the same."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatflow.adapters.memory.cache import MemoryCache
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.analytics import ComputedAnalytics, SummaryAnalytics
from chatflow.domain.reading.answers import Tier
from chatflow.entrypoints.cli.maintenance import run_audit
from chatflow.entrypoints.clocks import new_id
from chatflow.entrypoints.containers import Container, build_container
from chatflow.entrypoints.roles.process import Lifetime
from chatflow.entrypoints.serving import opened
from chatflow.entrypoints.settings import Profile, Settings, load_settings
from chatflow.entrypoints.summaries import catch_up_summaries
from chatflow.ports.messages import Message


def settings_of(profile: Profile, data_dir: Path) -> Settings:
    environ = {"CHATFLOW_PROFILE": profile.value, "CHATFLOW_DATA_DIR": str(data_dir)}
    return load_settings("up", environ, dotenv=None)


def message(room: str, user: int, at_us: int) -> Message:
    return Message(new_id(), room, user, f"user{user}", "hi", "TEXT", at_us, at_us)


@pytest.fixture(params=list(Profile))
async def built(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Profile, Container]]:
    settings = settings_of(request.param, tmp_path)
    migrate.upgrade(settings.common.database_url)
    async with opened(build_container(settings), Lifetime()) as container:
        yield request.param, container


async def test_each_profile_builds_every_role(built: tuple[Profile, Container]) -> None:
    profile, container = built
    gateway = await container.gateway.async_()
    processor = await container.processor.async_()
    api = await container.api.async_()
    assert gateway.broker is processor.broker
    assert len(processor.processors) == 8
    assert processor.processors[0].persister.live is gateway.live
    assert processor.store.summaries is profile.summaries
    assert isinstance(api.queries.cache.shared, MemoryCache) is profile.caches
    assert processor.processors[0].persister.cache is api.queries.cache.shared
    expected = SummaryAnalytics if profile.summaries else ComputedAnalytics
    assert type(api.queries.analytics) is expected


async def test_each_profile_counts_the_same_and_caches_only_where_it_says_so(built: tuple[Profile, Container]) -> None:
    profile, container = built
    store, queries = await container.store.async_(), await container.queries.async_()
    rows = [message(room, user, 1_000_000 * at) for at, (room, user) in enumerate([("a", 1), ("a", 2), ("b", 1)])]
    await store.append_batch(rows)
    for expected in (Tier.MISS, Tier.SHARED if profile.caches else Tier.MISS):
        answered = await queries.answer(queries.top_users(10))
        assert answered.source is expected
        assert b'"userId":1,"username":"user1","messageCount":2' in answered.value
    await queries.cache.close()


async def test_the_figures_of_a_database_s_pools_are_the_roles_own(built: tuple[Profile, Container]) -> None:
    _, container = built
    writing = (await container.processor.async_()).snapshot().gauges
    reading = (await container.api.async_()).snapshot().gauges
    names = ("size", "active", "idle", "total", "waiting")
    assert [writing[f"writer_{name}"] for name in names] == [1, 0, 0, 0, 0]
    assert [reading[f"reader_{name}"] for name in names] == [4, 0, 1, 1, 0]  # the one that found the database open


async def test_a_commit_invalidates_what_the_read_side_has_cached(tmp_path: Path) -> None:
    settings = settings_of(Profile.O12, tmp_path)
    migrate.upgrade(settings.common.database_url)
    async with opened(build_container(settings), Lifetime()) as container:
        processor, queries = await container.processor.async_(), await container.queries.async_()
        persister = processor.processors[0].persister
        await persister.persist(0, [message("a", 1, 1)])
        first = await queries.answer(queries.room("a", limit=10))
        again = await queries.answer(queries.room("a", limit=10))
        await persister.persist(0, [message("a", 1, 2)])
        after = await queries.answer(queries.room("a", limit=10))
        await queries.cache.close()
    assert (first.source, again.source, after.source) == (Tier.MISS, Tier.SHARED, Tier.MISS)
    assert b'"seq":2' in after.value


async def test_summaries_that_a_profile_left_behind_are_recounted(tmp_path: Path) -> None:
    without, with_them = settings_of(Profile.O1, tmp_path), settings_of(Profile.O2, tmp_path)
    migrate.upgrade(without.common.database_url)
    for settings, rebuilt in ((with_them, False), (without, None), (with_them, True)):
        async with opened(build_container(settings), Lifetime()) as container:
            tables = await container.summary_tables.async_()
            if rebuilt is not None:
                assert await catch_up_summaries(tables) is rebuilt
                assert await tables.are_current()
            store = await container.store.async_()
            await store.append_batch([message(room, user, at) for at, (room, user) in enumerate([("a", 1), ("b", 2)])])
    assert (await run_audit(with_them.common, None)).is_clean
