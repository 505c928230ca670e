"""All settings of every role, parsed once at start into frozen values.

Every variable is checked whichever role starts, so that one ``.env`` file is either right for the whole fleet or
refused by its first process. Defaults are those of ``chatflow up``; a role that runs apart from the others refuses an
in-process broker or cache, because its peers could not see it.
"""

import enum
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, overload

import attrs

from chatflow.adapters.redis import address as redis_address
from chatflow.entrypoints.settings.addresses import check_broker, check_database
from chatflow.entrypoints.settings.environment import (
    SettingsError,
    Source,
    choice,
    directory,
    flag,
    given_by,
    integer,
    port,
    read_group,
    rules_of,
    seconds,
    split_urls,
    text,
    url,
    variable_of,
)

__all__ = [
    "ApiSettings",
    "Common",
    "GatewaySettings",
    "Limits",
    "ProcessorSettings",
    "Profile",
    "Role",
    "SettingsError",
    "UpSettings",
    "all_variables",
    "describe",
    "load_settings",
]

Role = Literal["up", "gateway", "processor", "api", "tool"]
"""``tool`` stands for every command that needs the common part only, such as ``migrate`` and ``audit``."""


def _check_redis(value: str) -> None:
    if not value.startswith("memory:"):
        redis_address.parse(value)


class Profile(enum.StrEnum):
    """Which optimisations are on."""

    B0 = "B0"
    O1 = "O1"
    O2 = "O2"
    O12 = "O12"

    @property
    def caches(self) -> bool:
        """Reads go through L1 and L2, and commits invalidate them."""
        return self in {Profile.O1, Profile.O12}

    @property
    def summaries(self) -> bool:
        """Commits keep the summary tables, and analytics read them."""
        return self in {Profile.O2, Profile.O12}


@attrs.frozen
class Common:
    """What several roles share.

    Attributes:
        sources: where each variable that was given came from.
    """

    profile: Profile = choice(Profile.O12, "optimisations: B0 none, O1 caches, O2 summary tables, O12 both", Profile)
    broker_url: str = url(
        "memory://",
        "memory:// (up only) or amqp://user:password@host/vhost, a comma list for a cluster",
        schemes=("memory://", "amqp://", "amqps://"),
        many=True,
        check=check_broker,
    )
    data_dir: Path = directory(Path("./var"), "where embedded data lives")
    database_url: str = url(
        attrs.Factory(lambda common: f"sqlite+aiosqlite:///{common.data_dir}/chatflow.db", takes_self=True),
        "sqlite+aiosqlite:///file or mysql+asyncmy://user:password@host/database",
        schemes=("sqlite+aiosqlite:///", "mysql+asyncmy://"),
        check=check_database,
    )
    cache_url: str = url(
        "memory://",
        "memory:// (up only), redis://host:port/number, redis+sentinel://hosts/name/number or redis+cluster://hosts",
        schemes=("memory://", *(f"{scheme}://" for scheme in redis_address.SCHEMES)),
        check=_check_redis,
    )
    host: str = text("127.0.0.1", "bind address of every listener")
    partitions: int = integer(8, "partitions of the broker, the same in every role", most=1024)
    log_level: str = choice(
        "info", "least severe event that is logged", ("debug", "info", "warning", "error", "critical")
    )
    log_format: str = choice(
        "auto", "console, json, or auto: console on a terminal, else json", ("auto", "console", "json")
    )
    broker_limit_bytes: int = integer(67_108_864, "bytes one partition's queue holds before it refuses")
    breaker_failures: int = integer(5, "failures in a row that open a circuit breaker")
    breaker_reset_s: float = seconds(15.0, "seconds until an open breaker lets one probe through")
    reader_pool: int = integer(20, "database connections for reads, per process", most=1000)
    reader_queue: int = integer(200, "reads that may wait for a connection before the next is refused", least=0)
    read_deadline_s: float = seconds(5.0, "seconds a read may take")
    write_deadline_s: float = seconds(10.0, "seconds a write to a database server may take, repeats included")
    drain_s: float = seconds(25.0, "seconds a stopping process may take to finish what it holds")
    driver_fallback: bool = flag(
        False, "true: use only documented parts of every driver, as after a failed self-check; slower, for tests"
    )
    sources: Mapping[str, Source] = attrs.field(factory=dict, eq=False, repr=False)

    @property
    def is_embedded(self) -> bool:
        """Nobody else can be writing: the broker lives in this process."""
        return self.broker_url.startswith("memory:")

    @property
    def shares_cache(self) -> bool:
        """Processes have a cache in common."""
        return not self.cache_url.startswith("memory:")

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The nodes of the broker's cluster."""
        return split_urls(self.broker_url)


@attrs.frozen
class Limits:
    """What a valid message is."""

    message_max_chars: int = integer(500, "longest message, in characters", most=4000)
    username_min_chars: int = integer(3, "shortest username", most=64)
    username_max_chars: int = integer(20, "longest username", most=64)
    room_max_chars: int = integer(64, "longest room id", most=64)


@attrs.frozen
class GatewaySettings:
    """WebSocket entry and live delivery."""

    common: Common = attrs.field(factory=Common)
    limits: Limits = attrs.field(factory=Limits)
    gateway_port: int = port(8080, "WebSocket port (0: any free one, here and below)")
    gateway_health_port: int = port(8081, "port of the gateway's health and metrics")
    frame_max_bytes: int = integer(16_384, "largest frame a client may send", least=1024)
    hello_timeout_s: float = seconds(10.0, "seconds a new session has to say hello")
    heartbeat_s: float = seconds(25.0, "seconds between pings")
    outbound_limit_bytes: int = integer(1_048_576, "unsent bytes at which a slow reader is disconnected", least=1024)
    replay_limit: int = integer(1000, "messages replayed at most to a client that comes back", least=0)
    connections_max: int = integer(20_000, "open connections per gateway")
    rooms_per_connection: int = integer(500, "rooms one connection may join")
    inflight_per_connection: int = integer(1024, "messages of one connection that may wait for their ack")
    protocol_errors_max: int = integer(
        128, "malformed frames or items a minute that close a /ws connection; on /feed any messages", least=8
    )
    connection_memory_bytes: int = integer(
        67_108_864, "bytes all connections may hold before the largest is closed", least=2**20
    )
    accept_buffer_bytes: int = integer(67_108_864, "bytes of accepted messages that may wait for the broker")
    confirm_timeout_s: float = seconds(5.0, "seconds to wait for the broker's confirm")
    accept_patience_s: float = seconds(0.8, "seconds a publish is retried before the client is told to")
    live_queue: int = integer(10_000, "live envelopes a gateway queues before it repairs from the database")
    resync_s: float = seconds(2.0, "seconds between checks of joined rooms against the database")


@attrs.frozen
class ProcessorSettings:
    """Consume, persist, invalidate, publish live."""

    common: Common = attrs.field(factory=Common)
    processor_health_port: int = port(9090, "port of the processor's health and metrics")
    writer_pool: int = integer(10, "database connections for writes", most=1000)
    prefetch: int = integer(64, "unacked envelopes per partition", most=65_535)
    batch_small: int = integer(500, "messages per transaction while few wait")
    batch_medium: int = integer(2000, "messages per transaction above the medium depth")
    batch_large: int = integer(3000, "messages per transaction above the large depth")
    batch_medium_depth: int = integer(5000, "waiting messages up to which batches are small", least=0)
    batch_large_depth: int = integer(15_000, "waiting messages up to which batches are medium", least=0)
    linger_ms: int = integer(0, "milliseconds a flush waits for more while a writer is idle", least=0, most=1000)
    buffer_messages: int = integer(20_000, "messages the write-behind buffer holds")
    buffer_bytes: int = integer(33_554_432, "bytes the write-behind buffer holds")


@attrs.frozen
class ApiSettings:
    """REST read side and web pages."""

    common: Common = attrs.field(factory=Common)
    limits: Limits = attrs.field(factory=Limits)
    api_port: int = port(9091, "port of the REST interface and the web pages")
    gateway_url: str = url("", "WebSocket address that the web page connects to", schemes=("ws://", "wss://"))
    cors_origin: str = text(
        "",
        "origin whose pages may read the REST interface, or *",
        pattern=r"\*|https?://[^/\s]+",
        expected="* or an origin such as https://chat.example.org",
    )
    cache_entries: int = integer(10_000, "entries of the in-process cache")
    cache_bytes: int = integer(67_108_864, "bytes of the in-process cache")
    uncached_reads: int = integer(50, "database reads at a time while Redis is out of reach, before one is refused")


@attrs.frozen
class UpSettings:
    """Every role in one process; all four share one ``Common``."""

    common: Common = attrs.field(factory=Common)
    gateway: GatewaySettings = attrs.field(factory=GatewaySettings)
    processor: ProcessorSettings = attrs.field(factory=ProcessorSettings)
    api: ApiSettings = attrs.field(factory=ApiSettings)


Settings = UpSettings | GatewaySettings | ProcessorSettings | ApiSettings | Common

_GROUPS: tuple[type[attrs.AttrsInstance], ...] = (Common, Limits, GatewaySettings, ProcessorSettings, ApiSettings)


def all_variables() -> Iterator[tuple[str, str, str]]:
    """Name, default and one-line meaning of every variable, in the order of declaration."""
    for group in _GROUPS:
        defaults = group()
        for field, rule in rules_of(group):
            yield variable_of(field), rule.shown(getattr(defaults, field.name)), rule.meaning


@overload
def load_settings(role: Literal["up"], environ: Mapping[str, str] = ..., dotenv: Path | None = ...) -> UpSettings: ...
@overload
def load_settings(
    role: Literal["gateway"], environ: Mapping[str, str] = ..., dotenv: Path | None = ...
) -> GatewaySettings: ...
@overload
def load_settings(
    role: Literal["processor"], environ: Mapping[str, str] = ..., dotenv: Path | None = ...
) -> ProcessorSettings: ...
@overload
def load_settings(role: Literal["api"], environ: Mapping[str, str] = ..., dotenv: Path | None = ...) -> ApiSettings: ...
@overload
def load_settings(role: Literal["tool"], environ: Mapping[str, str] = ..., dotenv: Path | None = ...) -> Common: ...
def load_settings(role: Role, environ: Mapping[str, str] = os.environ, dotenv: Path | None = Path(".env")) -> Settings:
    """Read, check and freeze; the environment wins over the ``.env`` file, which may be absent.

    Raises:
        SettingsError: an unknown variable, an invalid value, values that contradict each other, or a broker, cache
            or database that this role could not share with its peers.
    """
    up = load_process_settings(role, environ, dotenv)
    by_role: dict[Role, Settings] = {
        "up": up,
        "gateway": up.gateway,
        "processor": up.processor,
        "api": up.api,
        "tool": up.common,
    }
    return by_role[role]


def load_process_settings(
    role: Role, environ: Mapping[str, str] = os.environ, dotenv: Path | None = Path(".env")
) -> UpSettings:
    """Like ``load_settings``, with the settings of the roles that do not run here beside those that do.

    Raises:
        SettingsError: as ``load_settings``.
    """
    given = given_by(environ, dotenv, [name for name, _, _ in all_variables()])
    common = read_group(Common, given, sources=given.sources)
    limits = read_group(Limits, given)
    up = UpSettings(
        common,
        read_group(GatewaySettings, given, common=common, limits=limits),
        read_group(ProcessorSettings, given, common=common),
        read_group(ApiSettings, given, common=common, limits=limits),
    )
    _check_order(limits, up.processor)
    _check_ports(role, up)
    _check_shared(role, common)
    return up


def _check_order(limits: Limits, processor: ProcessorSettings) -> None:
    ladders: tuple[tuple[attrs.AttrsInstance, tuple[str, ...]], ...] = (
        (limits, ("username_min_chars", "username_max_chars")),
        (processor, ("batch_small", "batch_medium", "batch_large")),
        (processor, ("batch_medium_depth", "batch_large_depth")),
    )
    for group, names in ladders:
        for lower, upper in itertools.pairwise(names):
            low, high = getattr(group, lower), getattr(group, upper)
            if low > high:
                other = variable_of(getattr(attrs.fields(type(group)), lower))
                variable = variable_of(getattr(attrs.fields(type(group)), upper))
                raise SettingsError(variable, f"must not be below {other} ({high} < {low})")


def _check_ports(role: Role, up: UpSettings) -> None:
    """Listeners of one process cannot share a port; other roles may run on another machine."""
    groups: dict[Role, tuple[attrs.AttrsInstance, ...]] = {
        "up": (up.gateway, up.processor, up.api),
        "gateway": (up.gateway,),
    }
    taken: dict[int, str] = {}
    for group in groups.get(role, ()):
        ports = [field for field, _ in rules_of(type(group)) if field.name.endswith("_port")]
        for field in ports:
            number, variable = getattr(group, field.name), variable_of(field)
            if number and taken.setdefault(number, variable) != variable:
                raise SettingsError(variable, f"must differ from {taken[number]} (both are {number})")


_APART: Mapping[Role, tuple[str, ...]] = {
    "gateway": ("broker_url", "database_url"),
    "processor": ("broker_url", "database_url"),
    "api": ("database_url",),
}
"""What a role that runs in a process of its own must find outside of it."""

_WHY: Mapping[str, str] = {
    "broker_url": "must name a broker, such as amqp://user:password@host/vhost: an in-process broker cannot be shared",
    "database_url": "must name the database: the role shares it with others and starts none of its own",
}


def _check_shared(role: Role, common: Common) -> None:
    private = {
        "broker_url": common.broker_url.startswith("memory:"),
        "database_url": "CHATFLOW_DATABASE_URL" not in common.sources,
    }
    for name in _APART.get(role, ()):
        if private[name]:
            where = f"(role {role}; chatflow up runs without)"
            raise SettingsError(variable_of(getattr(attrs.fields(Common), name)), f"{_WHY[name]} {where}")


def describe(settings: Settings) -> list[tuple[str, str, Source]]:
    """Variable, value and source of each effective setting, passwords masked, each variable once."""
    common = settings if isinstance(settings, Common) else settings.common
    rows: dict[str, tuple[str, str, Source]] = {}
    for group in _walk(settings):
        for field, rule in rules_of(type(group)):
            name = variable_of(field)
            row = (name, rule.shown(getattr(group, field.name)), common.sources.get(name, "default"))
            rows.setdefault(name, row)
    return list(rows.values())


def _walk(group: attrs.AttrsInstance) -> Iterator[attrs.AttrsInstance]:
    yield group
    for field in attrs.fields(type(group)):
        part = getattr(group, field.name)
        if attrs.has(type(part)):
            yield from _walk(part)
