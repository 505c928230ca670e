"""Parts of the graph that take more than a constructor call."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import attrs
import structlog

from chatflow.adapters.aiohttp.encoding import encode, encode_row
from chatflow.adapters.audit_log import AuditLog
from chatflow.adapters.sql.database import Database
from chatflow.adapters.tls.entry import TlsEntrance
from chatflow.domain.identity.revocation_watch import RevocationWatch
from chatflow.domain.messages.conflicts import FoundConflicts
from chatflow.domain.messages.validation import MessageLimits
from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import LocalCache, LocalTier
from chatflow.domain.reading.room_tails import RoomTails
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.quotas import Quotas
from chatflow.domain.session.rates import RateLimiter, Rates
from chatflow.domain.session.recent_ids import RecentIds
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.entrypoints.resources import SharedServices
from chatflow.entrypoints.roles.reporting import Identity
from chatflow.entrypoints.settings import (
    ApiSettings,
    Common,
    GatewaySettings,
    MessageSettings,
    ProcessorSettings,
    RateSettings,
)
from chatflow.ports.broker import Broker
from chatflow.ports.errors import SequenceCollision, StoreError

log = structlog.get_logger()

EMBEDDED_CONFLICTS = 10_000
"""Found and not told: far more than may wait for a confirm at one time."""


def breaker_of(common: Common) -> CircuitBreaker:
    """A circuit breaker with the configured thresholds."""
    return CircuitBreaker(time.monotonic, common.breaker_failures, common.breaker_reset_s)


def found_conflicts_of(common: Common) -> FoundConflicts:
    """What a commit finds reaches its confirm only where both happen in one process."""
    return FoundConflicts(EMBEDDED_CONFLICTS if common.is_embedded else 0)


def recent_ids_of(gateway: GatewaySettings) -> RecentIds:
    """Where the confirm comes from the commit, the store decides about every id, and nothing need be remembered."""
    return RecentIds(0 if gateway.common.is_embedded else gateway.remembered_ids)


@attrs.frozen
class ProcessMetrics:
    """Of what all roles of a process share."""

    trail: AuditLog
    tls: TlsEntrance | None = None
    revocation_watch: RevocationWatch | None = None

    def counts(self) -> Mapping[str, int]:
        """Counters."""
        counted = [each for each in (self.trail, self.tls, self.revocation_watch) if each is not None]
        return {name: count for each in counted for name, count in each.counts().items()}

    def gauges(self) -> Mapping[str, float]:
        """Present values."""
        shown = [each for each in (self.tls, self.revocation_watch) if each is not None]
        return {name: value for each in shown for name, value in each.gauges().items()}


def identity_of(role: str, process: ProcessMetrics, also: Callable[[], Mapping[str, float]] = dict) -> Identity:
    """The identity of a role that starts now."""

    def gauges() -> Mapping[str, float]:
        return {**process.gauges(), **also()}

    return Identity(role, new_id(), time.monotonic, now_us, time.monotonic(), gauges, process.counts)


def pool_gauges(database: Database, pool: str) -> Callable[[], Mapping[str, float]]:
    """Gauges of a connection pool, such as ``writer_active``, in the names that `FleetView` sums up."""

    def gauges() -> Mapping[str, float]:
        metrics = database.pools().get(pool)
        counts = {} if metrics is None else attrs.asdict(metrics)
        return {f"{pool}_{name}": float(value) for name, value in counts.items()}

    return gauges


def limits_of(limits: MessageSettings) -> MessageLimits:
    """The configured limits of a valid message."""
    return MessageLimits(
        username_min=limits.username_min_chars,
        username_max=limits.username_max_chars,
        text_max=limits.message_max_chars,
        room_max=limits.room_max_chars,
    )


def rates_of(settings: RateSettings, metrics: SessionMetrics) -> RateLimiter:
    """The configured rates."""

    def per(scope: str) -> Rates:
        return Rates(**{each: getattr(settings, f"{each}_per_{scope}") for each in attrs.fields_dict(Rates)})

    return RateLimiter(
        time.monotonic,
        metrics,
        per("connection"),
        per("user"),
        per("address"),
        settings.rate_burst_s,
        settings.rate_abuse_s,
    )


def quotas_of(settings: RateSettings, metrics: SessionMetrics) -> Quotas:
    """The configured quotas."""
    return Quotas(
        time.monotonic,
        metrics,
        settings.connections_per_address,
        settings.sessions_per_user,
        settings.new_rooms_per_hour,
        settings.bytes_per_day,
    )


def policy_of(processor: ProcessorSettings) -> BatchPolicy:
    """The configured batch sizes."""
    return BatchPolicy(
        processor.batch_small,
        processor.batch_medium,
        processor.batch_large,
        processor.batch_medium_depth,
        processor.batch_large_depth,
        processor.linger_ms / 1000,
    )


def processors_of(
    settings: ProcessorSettings,
    broker: Broker,
    persister: Persister,
    metrics: PersistenceMetrics,
    *,
    database: Database,
) -> list[PartitionProcessor]:
    """One processor for each partition; together they buffer no more than the configured limits."""
    partitions = settings.common.partitions
    messages, size_bytes = settings.buffer_messages // partitions, settings.buffer_bytes // partitions

    def on_trip(failure: StoreError) -> None:
        log.warning("store.breaker_opened", kind=type(failure).__name__, error=str(failure))
        database.evict()

    return [
        PartitionProcessor(
            partition,
            broker,
            persister,
            breaker_of(settings.common),
            policy_of(settings),
            metrics,
            new_buffer=lambda: WriteBehindBuffer(max(1, messages), max(1, size_bytes)),
            prefetch=settings.prefetch,
            on_trip=on_trip,
            on_collision=partial(_log_collision, partition),
        )
        for partition in range(partitions)
    ]


def _log_collision(partition: int, failure: SequenceCollision) -> None:
    log.error("partition.stopped", partition=partition, kind=type(failure).__name__, error=str(failure))


def local_tier_of(shared: SharedServices, settings: ApiSettings, policy: CachePolicy) -> LocalTier:
    """What this process caches; at most a quarter of its bytes are for the newest messages of rooms."""
    tails_bytes = settings.cache_bytes // 4
    answers = LocalCache(
        time.monotonic, limit_entries=settings.cache_entries, limit_bytes=settings.cache_bytes - tails_bytes
    )
    tails = RoomTails(
        encode,
        encode_row,
        time.monotonic,
        fresh_s=policy.rule(Family.ROOM_NEWEST).local_ttl_s,
        tag_of=policy.room_tag,
        limit_bytes=tails_bytes,
    )
    return LocalTier(answers, tails, shared.feed)
