"""The settings that every role shares."""

import enum
from collections.abc import Mapping
from pathlib import Path

import attrs

from chatflow.adapters.redis.address import SCHEMES
from chatflow.adapters.sql import limits
from chatflow.domain.admission import bounds
from chatflow.domain.admission.addresses import TrustedProxies
from chatflow.domain.admission.origins import AllowedHosts, AllowedOrigins
from chatflow.domain.resilience import circuit_breaker
from chatflow.entrypoints.settings.addresses import check_broker, check_cache, check_database
from chatflow.entrypoints.settings.environment import Origin
from chatflow.entrypoints.settings.fields import choice, directory, flag, integer, listed, seconds, text, url
from chatflow.entrypoints.settings.transport import TlsSettings
from chatflow.entrypoints.settings.urls import split_urls
from chatflow.ports.broker import QUEUE_LIMIT_BYTES


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
        origins: where each variable that was set came from.
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
        attrs.Factory(lambda common: f"sqlite:///{common.data_dir}/chatflow.db", takes_self=True),
        "sqlite:///file or mysql+asyncmy://user:password@host/database",
        schemes=("sqlite:///", "sqlite+aiosqlite:///", "mysql+asyncmy://"),
        check=check_database,
    )
    cache_url: str = url(
        "memory://",
        "memory:// (up only), redis://host:port/number, redis+sentinel://hosts/name/number or redis+cluster://hosts",
        schemes=("memory://", *(f"{scheme}://" for scheme in SCHEMES)),
        check=check_cache,
    )
    host: str = text("127.0.0.1", "bind address of every listener")
    auth: str = choice(
        "open",
        "who may come in: open (user ids are claimed) or jwt; must be set where CHATFLOW_HOST is not loopback",
        ("open", "jwt"),
    )
    allowed_origins: str = listed(
        "",
        "foreign origins whose pages may come in, such as https://chat.example.org; own pages always may",
        check=AllowedOrigins.parse,
    )
    allowed_hosts: str = listed(
        "",
        "names under which clients may ask for this server, besides addresses, localhost and allowed origins' hosts",
        check=AllowedHosts.parse,
    )
    trusted_proxies: str = listed(
        "",
        "addresses or networks of proxies that are believed when they name a client, such as 10.0.0.0/8",
        check=TrustedProxies.parse,
    )
    proxy_protocol: bool = flag(
        False, "true: connections from trusted proxies to the gateway and the api begin with a PROXY header, v1 or v2"
    )
    http_connections_max: int = integer(
        bounds.HTTP_CONNECTIONS_MAX, "open connections per HTTP port; more take the place of idle ones", least=16
    )
    head_timeout_s: float = seconds(bounds.HEAD_TIMEOUT_S, "seconds that the head of an HTTP request may take")
    keepalive_s: float = seconds(bounds.KEEPALIVE_S, "seconds that an HTTP connection may be idle between two requests")
    partitions: int = integer(8, "partitions of the broker, the same in every role", most=1024)
    log_level: str = choice(
        "info", "least severe event that is logged", ("debug", "info", "warning", "error", "critical")
    )
    log_format: str = choice(
        "auto", "console, json, or auto: console on a terminal, else json", ("auto", "console", "json")
    )
    audit_log: str = text("", "file of the audit trail; empty: among the other lines of the log")
    audit_lines_per_s: int = integer(
        200, "different sign-ins and denials a second that the audit trail writes; further ones are counted together"
    )
    broker_limit_bytes: int = integer(QUEUE_LIMIT_BYTES, "bytes that one partition's queue holds; more are refused")
    breaker_failures: int = integer(circuit_breaker.FAILURES, "failures in a row that open a circuit breaker")
    breaker_reset_s: float = seconds(
        circuit_breaker.RESET_S,
        "seconds until an open circuit breaker lets one probe through, unless a sign of life comes sooner",
    )
    reader_pool: int = integer(limits.READER_POOL, "database connections for reads, per process", most=1000)
    reader_queue: int = integer(
        limits.READ_QUEUE_LIMIT, "reads that may wait for a connection; more are refused", least=0
    )
    read_deadline_s: float = seconds(limits.READ_DEADLINE_S, "seconds a read may take")
    write_deadline_s: float = seconds(
        limits.WRITE_DEADLINE_S, "seconds a write to a database server may take, repeats included"
    )
    drain_s: float = seconds(25.0, "seconds a stopping process may take to finish what it holds")
    driver_fallback: bool = flag(
        False, "true: use only documented parts of every driver, as after a failed self-check; slower, for tests"
    )
    tls: TlsSettings = attrs.field(factory=TlsSettings)
    origins: Mapping[str, Origin] = attrs.field(factory=dict, eq=False, repr=False)

    @property
    def is_embedded(self) -> bool:
        """The broker lives in this process, so no other process can be writing."""
        return self.broker_url.startswith("memory:")

    @property
    def is_open_by_hand(self) -> bool:
        """Somebody has set ``CHATFLOW_AUTH=open``; unset, it is open to this machine alone."""
        return self.auth == "open" and "CHATFLOW_AUTH" in self.origins

    @property
    def broker_socket(self) -> Path:
        """Where a process with an embedded broker takes the publishes of others."""
        return self.data_dir / "broker.sock"

    @property
    def shares_cache(self) -> bool:
        """Several processes use one cache."""
        return not self.cache_url.startswith("memory:")

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The nodes of the broker's cluster."""
        return split_urls(self.broker_url)
