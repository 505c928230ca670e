"""The JSON of ``/api/health`` and ``/api/metrics``, as types. Clients of other systems read these names."""

from msgspec import Struct


class ThroughputSection(Struct, rename="camel"):
    """Messages per second."""

    current_consume_rate: float
    current_write_rate: float
    current_insert_rate: float
    peak_consume_rate: float
    peak_write_rate: float
    peak_insert_rate: float
    overall_throughput: float


class TotalsSection(Struct, rename="camel"):
    """Messages since each living process started; batches for `batchesWritten` and `dbFailed`."""

    messages_received: int
    messages_published: int
    messages_consumed: int
    messages_attempted: int
    messages_inserted: int
    batches_written: int
    db_inserts: int
    db_attempted: int
    db_failed: int
    duplicates_skipped: int
    dlq_messages: int


class LatencySection(Struct, rename="camel"):
    """Milliseconds of a batch: of its commit alone (`avgDbBatchMs`), and of commit, invalidation and announcement."""

    avg_batch_write_ms: float
    max_batch_write_ms: float
    avg_db_batch_ms: float


class BufferSection(Struct, rename="camel"):
    """Messages in write-behind buffers; `totalDropped` were in one whose consumer ended, and were delivered again."""

    current_depth: int
    total_enqueued: int
    total_dropped: int


class ConnectionsSection(Struct, rename="camel"):
    """Database connections of one kind of pool, over all processes."""

    active_connections: int
    idle_connections: int
    total_connections: int
    waiting_threads: int


class QueryCacheSection(Struct, rename="camel"):
    """The caches inside the api processes."""

    size: int
    hits: int
    misses: int
    hit_ratio: float
    evictions: int


class CircuitBreakerSection(Struct, rename="camel"):
    """The worst breaker of the fleet."""

    state: str
    failure_count: int
    total_trips: int


class ConsumerSection(Struct, rename="camel"):
    """What the processors took from the broker; `consumeErrors` counts consumers that broke or could not be opened."""

    messages_consumed: int
    consume_errors: int
    duplicates_detected: int


class RoomsSection(Struct, rename="camel"):
    """What the gateways serve."""

    active_rooms: int
    total_broadcast_connections: int


class RedisCacheSection(Struct, rename="camel"):
    """The cache that all api processes share; not enabled without Redis."""

    enabled: bool
    available: bool
    hits: int
    misses: int
    errors: int
    hit_ratio: float


class FleetMetrics(Struct, rename="camel"):
    """The whole fleet, summed over its processes."""

    throughput: ThroughputSection
    totals: TotalsSection
    latency: LatencySection
    buffer: BufferSection
    database: ConnectionsSection
    reader_pool: ConnectionsSection
    query_cache: QueryCacheSection
    circuit_breaker: CircuitBreakerSection
    consumer: ConsumerSection
    rooms: RoomsSection
    redis_cache: RedisCacheSection
    uptime: int
    summary_tables_enabled: bool


class Pool(Struct):
    """Connections of one kind of pool, over all processes."""

    active: int
    idle: int
    total: int
    waiting: int


class CacheHealth(Struct, rename="camel"):
    """Entries, and hits as a share of lookups."""

    size: int
    hit_ratio: float


class FleetHealth(Struct, rename="camel"):
    """`status` is `healthy`, or `degraded` while anything is down or a circuit breaker is not closed."""

    status: str
    service: str
    circuit_breaker: str
    uptime: int
    db_connections: Pool
    reader_pool: Pool
    query_cache: CacheHealth
    redis_cache: RedisCacheSection
