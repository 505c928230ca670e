"""The settings of each role; every group holds the common one."""

import attrs

from chatflow.adapters.sql.limits import WRITER_POOL
from chatflow.domain.admission import bounds
from chatflow.domain.delivery.room_hub import REPLAY_LIMIT
from chatflow.domain.ingest import fairness, publisher
from chatflow.domain.persistence import batch_policy, write_behind
from chatflow.domain.persistence.partition_processor import PREFETCH
from chatflow.domain.reading import local_cache
from chatflow.domain.reading.read_cache import UNCACHED_LIMIT
from chatflow.domain.session import context, recent_ids
from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.fields import integer, port, seconds, text, url
from chatflow.entrypoints.settings.identity import IdentitySettings
from chatflow.entrypoints.settings.messages import MessageSettings
from chatflow.entrypoints.settings.rates import RateSettings
from chatflow.ports.broker import CONFIRM_TIMEOUT_S


@attrs.frozen
class GatewaySettings:
    """WebSocket entry and live delivery."""

    common: Common = attrs.field(factory=Common)
    limits: MessageSettings = attrs.field(factory=MessageSettings)
    rates: RateSettings = attrs.field(factory=RateSettings)
    gateway_port: int = port(8080, "WebSocket port (0: any free one, here and below)")
    gateway_health_port: int = port(8081, "port of the gateway's health and metrics")
    frame_max_bytes: int = integer(context.FRAME_MAX_BYTES, "largest frame a client may send", least=1024)
    hello_timeout_s: float = seconds(context.HELLO_TIMEOUT_S, "seconds a new session has to say hello")
    heartbeat_s: float = seconds(context.HEARTBEAT_S, "seconds between pings")
    outbound_limit_bytes: int = integer(
        context.OUTBOUND_LIMIT_BYTES, "unsent bytes at which a slow reader is disconnected", least=1024
    )
    replay_limit: int = integer(REPLAY_LIMIT, "most messages replayed to a reconnecting client", least=0)
    connections_max: int = integer(context.CONNECTIONS_MAX, "open connections per gateway")
    handshakes_max: int = integer(
        bounds.HANDSHAKES_MAX, "handshakes under way per gateway; the slowest make room for more", least=16
    )
    send_buffer_bytes: int = integer(
        bounds.SEND_BUFFER_BYTES, "bytes the kernel may hold for a client that does not read", least=4096
    )
    rooms_per_connection: int = integer(context.ROOMS_PER_CONNECTION, "rooms one connection may join")
    inflight_per_connection: int = integer(
        context.INFLIGHT_PER_CONNECTION, "messages of one connection that may wait for their ack"
    )
    protocol_errors_max: int = integer(
        context.PROTOCOL_ERRORS_MAX,
        "malformed frames or items a minute that close a /ws connection; on /feed any messages",
        least=8,
    )
    connection_memory_bytes: int = integer(
        context.CONNECTION_MEMORY_BYTES, "bytes all connections may hold before the largest is closed", least=2**20
    )
    remembered_ids: int = integer(
        recent_ids.REMEMBERED_IDS, "message ids whose repeat with another room or text is refused at once", least=0
    )
    accept_buffer_bytes: int = integer(publisher.LIMIT_BYTES, "bytes of accepted messages that may wait for the broker")
    light_rate: int = integer(
        fairness.LIGHT_RATE, "messages a second up to which a connection is served first; the others share the rest"
    )
    confirm_timeout_s: float = seconds(CONFIRM_TIMEOUT_S, "seconds to wait for the broker's confirm")
    accept_patience_s: float = seconds(
        publisher.PATIENCE_S, "seconds a failed publish is retried before the client must repeat it"
    )
    live_queue: int = integer(10_000, "live envelopes a gateway queues before it repairs from the database")
    resync_s: float = seconds(2.0, "seconds between checks of joined rooms against the database")


@attrs.frozen
class ProcessorSettings:
    """Consume, persist, invalidate, publish live."""

    common: Common = attrs.field(factory=Common)
    processor_health_port: int = port(9090, "port of the processor's health and metrics")
    writer_pool: int = integer(WRITER_POOL, "database connections for writes", most=1000)
    prefetch: int = integer(PREFETCH, "unacked envelopes per partition", most=65_535)
    batch_small: int = integer(batch_policy.SMALL, "messages per transaction while few wait")
    batch_medium: int = integer(batch_policy.MEDIUM, "messages per transaction above the medium depth")
    batch_large: int = integer(batch_policy.LARGE, "messages per transaction above the large depth")
    batch_medium_depth: int = integer(
        batch_policy.MEDIUM_DEPTH, "waiting messages up to which batches are small", least=0
    )
    batch_large_depth: int = integer(
        batch_policy.LARGE_DEPTH, "waiting messages up to which batches are medium", least=0
    )
    linger_ms: int = integer(0, "milliseconds a flush waits for more while a writer is idle", least=0, most=1000)
    buffer_messages: int = integer(write_behind.LIMIT_MESSAGES, "messages the write-behind buffer holds")
    buffer_bytes: int = integer(write_behind.LIMIT_BYTES, "bytes the write-behind buffer holds")


@attrs.frozen
class ApiSettings:
    """REST read side and web pages."""

    common: Common = attrs.field(factory=Common)
    limits: MessageSettings = attrs.field(factory=MessageSettings)
    api_port: int = port(9091, "port of the REST interface and the web pages")
    gateway_url: str = url("", "WebSocket address that the web page connects to", schemes=("ws://", "wss://"))
    cors_origin: str = text(
        "",
        "origin whose pages may read the REST interface, or *",
        pattern=r"\*|https?://[^/\s]+",
        expected="* or an origin such as https://chat.example.org",
    )
    cache_entries: int = integer(local_cache.LIMIT_ENTRIES, "entries of the in-process cache")
    cache_bytes: int = integer(local_cache.LIMIT_BYTES, "bytes of the in-process cache")
    uncached_reads: int = integer(
        UNCACHED_LIMIT, "concurrent database reads while Redis is out of reach; more are refused"
    )


@attrs.frozen
class Settings:
    """The settings of every role; all groups share one ``Common``."""

    common: Common = attrs.field(factory=Common)
    gateway: GatewaySettings = attrs.field(factory=GatewaySettings)
    processor: ProcessorSettings = attrs.field(factory=ProcessorSettings)
    api: ApiSettings = attrs.field(factory=ApiSettings)
    identity: IdentitySettings = attrs.field(factory=IdentitySettings)
