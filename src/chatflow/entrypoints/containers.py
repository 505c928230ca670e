"""The object graph, and each profile as overrides of it. The one module that knows dependency-injector.

Whatever must be opened and closed is an async `Resource`, in memory too, so that neither a profile nor a URL changes
what is awaited. No resource needs another one: dependency-injector logs a traceback when one that others wait for is
cancelled. Overrides are applied before anything is built.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection

from dependency_injector import containers, providers

from chatflow.adapters.aiohttp.encoding import encode
from chatflow.adapters.sql.analytics import ComputedAnalytics, SummaryAnalytics
from chatflow.adapters.sql.commit_counts import CommitCounts
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.adapters.sql.rebuild import SqlSummaries
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.adapters.websockets.server import GatewayServer
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import Stamps
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.query_service import QueryService
from chatflow.domain.reading.read_cache import ReadCache
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.entrypoints.audit_trails import open_audit_log
from chatflow.entrypoints.builders import (
    ProcessMetrics,
    breaker_of,
    found_conflicts_of,
    identity_of,
    limits_of,
    local_tier_of,
    pool_gauges,
    processors_of,
    quotas_of,
    rates_of,
    recent_ids_of,
)
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.entrypoints.encryption import open_tls
from chatflow.entrypoints.identity import bearers_of, open_authenticator, revocation_watch_of, revoked_of
from chatflow.entrypoints.resources import broker_of, database_of, ready, shared_of
from chatflow.entrypoints.roles.api import ApiRole
from chatflow.entrypoints.roles.gateway import GatewayRole
from chatflow.entrypoints.roles.ports import admission_of, doorway_of, reading_admission_of
from chatflow.entrypoints.roles.processor import RATES, ProcessorRole
from chatflow.entrypoints.roles.replay_socket import ReplaySocketRole
from chatflow.entrypoints.roles.reporting import Rates
from chatflow.entrypoints.settings import Profile, Settings


class Container(containers.DeclarativeContainer):
    """The graph of profile O12; see `PROFILES` for the others."""

    settings = providers.Dependency(instance_of=Settings)
    common = settings.provided.common
    gateway_settings = settings.provided.gateway
    processor_settings = settings.provided.processor
    api_settings = settings.provided.api

    summaries = providers.Object(True)
    audit_trail = providers.Singleton(open_audit_log, common)
    tls = providers.Singleton(open_tls, common, audit_trail)

    database = providers.Resource(
        ready, "database", providers.Factory(database_of, common, processor_settings.writer_pool)
    )
    broker_breaker = providers.Singleton(breaker_of, common)
    broker = providers.Resource(
        ready, "broker", providers.Factory(broker_of, common, gateway_settings.confirm_timeout_s, broker_breaker)
    )
    live_channel = broker.provided.live
    authenticator = providers.Resource(open_authenticator, settings.provided.identity)
    revoked = providers.Singleton(revoked_of, settings.provided.identity)
    revocation_watch = providers.Singleton(revocation_watch_of, settings.provided.identity, database, revoked)
    bearers = providers.Singleton(bearers_of, authenticator, revoked, audit_trail)
    process_metrics = providers.Singleton(ProcessMetrics, audit_trail, tls, revocation_watch)
    shared = providers.Resource(ready, "cache", providers.Factory(shared_of, api_settings))

    fleet = providers.Callable(lambda shared: shared.fleet, shared)
    cache = providers.Callable(lambda shared: shared.cache, shared)
    leases = providers.Callable(lambda shared: shared.leases, shared)
    feed = providers.Callable(lambda shared: shared.feed, shared)
    cache_policy = providers.Singleton(CachePolicy)
    local_tier = providers.Singleton(local_tier_of, shared, api_settings, cache_policy)
    store = providers.Singleton(
        SqlMessageStore,
        database,
        providers.Object(now_us),
        summaries=summaries,
        counts=providers.Factory(CommitCounts, providers.Callable(new_id), common.partitions),
    )
    reader = providers.Singleton(SqlMessageReader, database)
    summary_tables = providers.Singleton(SqlSummaries, database)
    analytics = providers.Singleton(SummaryAnalytics, database)

    conflicts = providers.Singleton(found_conflicts_of, common)
    ports: providers.Provider[set[int]] = providers.Singleton(set)
    admission = providers.Factory(admission_of, api_settings, gateway_settings, ports, audit_trail)

    publisher = providers.Singleton(
        IngestPublisher,
        broker,
        broker_breaker,
        providers.Singleton(IngestMetrics),
        providers.Object(time.monotonic),
        partitions=common.partitions,
        patience_s=gateway_settings.accept_patience_s,
        limit_bytes=gateway_settings.accept_buffer_bytes,
        light_rate=gateway_settings.light_rate,
        conflicts=conflicts,
    )
    session_metrics = providers.Singleton(SessionMetrics)
    context = providers.Singleton(
        GatewayContext,
        publisher,
        providers.Singleton(
            RoomHub, reader, providers.Singleton(DeliveryMetrics), replay_limit=gateway_settings.replay_limit
        ),
        providers.Singleton(StoredAcks, reader, providers.Object(time.monotonic)),
        session_metrics,
        providers.Callable(limits_of, gateway_settings.limits),
        providers.Factory(Stamps, providers.Callable(new_id), providers.Object(now_us), providers.Object(new_id)),
        providers.Object(time.monotonic),
        heartbeat_s=gateway_settings.heartbeat_s,
        hello_timeout_s=gateway_settings.hello_timeout_s,
        rooms_per_connection=gateway_settings.rooms_per_connection,
        inflight_per_connection=gateway_settings.inflight_per_connection,
        outbound_limit_bytes=gateway_settings.outbound_limit_bytes,
        protocol_errors_max=gateway_settings.protocol_errors_max,
        connection_memory_bytes=gateway_settings.connection_memory_bytes,
        rates=providers.Callable(rates_of, gateway_settings.rates, session_metrics),
        quotas=providers.Callable(quotas_of, gateway_settings.rates, session_metrics),
        authenticator=authenticator,
        revocations=revoked,
        audit_trail=audit_trail,
        recent_ids=providers.Singleton(recent_ids_of, gateway_settings),
    )
    gateway = providers.Singleton(
        GatewayRole,
        gateway_settings,
        providers.Factory(identity_of, "gateway", process_metrics),
        context,
        providers.Singleton(
            GatewayServer,
            context,
            providers.Object(new_id),
            frame_max_bytes=gateway_settings.frame_max_bytes,
            connections_max=gateway_settings.connections_max,
            doorway=providers.Singleton(doorway_of, gateway_settings, admission),
            tls=tls,
            driver_fallback=common.driver_fallback,
        ),
        broker,
        live_channel,
        database,
        fleet,
        tls=tls,
        bearers=bearers,
        revocation_watch=revocation_watch,
    )

    processor_metrics = providers.Singleton(PersistenceMetrics)
    persister = providers.Singleton(
        Persister,
        store,
        live_channel,
        processor_metrics,
        providers.Object(time.monotonic),
        providers.Object(now_us),
        cache,
        feed,
        commit_of=cache_policy.provided.commit_of,
        on_conflict=conflicts.provided.add,
    )
    processor = providers.Singleton(
        ProcessorRole,
        processor_settings,
        providers.Factory(
            identity_of, "processor", process_metrics, providers.Callable(pool_gauges, database, "writer")
        ),
        providers.Singleton(processors_of, processor_settings, broker, persister, processor_metrics, database=database),
        processor_metrics,
        broker,
        store,
        cache,
        fleet,
        providers.Factory(Rates, providers.Object(time.monotonic), tuple(RATES)),
        admission,
        tls=tls,
        bearers=bearers,
    )

    read_cache = providers.Singleton(
        ReadCache,
        local=local_tier,
        shared=cache,
        leases=leases,
        policy=cache_policy,
        uncached_limit=api_settings.uncached_reads,
        clock=providers.Object(time.monotonic),
        draw=providers.Object(random.random),
    )
    queries = providers.Singleton(
        QueryService,
        reader,
        analytics,
        read_cache,
        encode=providers.Object(encode),
        clock=providers.Object(time.monotonic),
    )
    api = providers.Singleton(
        ApiRole,
        api_settings,
        providers.Factory(identity_of, "api", process_metrics, providers.Callable(pool_gauges, database, "reader")),
        queries,
        database,
        fleet,
        gateway_settings.gateway_port,
        providers.Factory(reading_admission_of, api_settings, gateway_settings, ports, audit_trail),
        tls=tls,
        bearers=bearers,
    )
    replay_socket = providers.Singleton(ReplaySocketRole, common, broker)


def without_cache(container: Container) -> None:
    """Reads go to the database, and commits have nothing to invalidate."""
    for provider in (container.local_tier, container.cache, container.leases, container.feed):
        provider.override(providers.Object(None))


def without_summaries(container: Container) -> None:
    """Commits keep no summary tables, and analytics are computed from the messages."""
    container.summaries.override(providers.Object(False))
    container.analytics.override(providers.Singleton(ComputedAnalytics, container.database))


PROFILES: dict[Profile, tuple[Callable[[Container], None], ...]] = {
    Profile.B0: (without_cache, without_summaries),
    Profile.O1: (without_summaries,),
    Profile.O2: (without_cache,),
    Profile.O12: (),
}


def build_container(settings: Settings, *, is_alone: bool = True) -> Container:
    """The graph for these settings, with nothing opened yet.

    A process that ``is_alone`` may cache in memory; any other would miss the commits of its peers.
    """
    container = Container(settings=settings)
    for override in PROFILES[settings.common.profile]:
        override(container)
    if not (is_alone or settings.common.shares_cache):
        without_cache(container)
    return container


def start_opening(container: Container, names: Collection[str]) -> list[asyncio.Future[object]]:
    """Start to open every resource that these roles need, and no other."""
    roles = [container.providers[name] for name in names]
    needed = {resource: None for role in roles for resource in role.traverse(types=[providers.Resource])}
    return [asyncio.ensure_future(resource.async_()) for resource in needed]
