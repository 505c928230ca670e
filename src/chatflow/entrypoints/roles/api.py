"""Role ``api``: the REST read side and the web pages."""

import attrs
import structlog
from aiohttp import web

from chatflow.adapters.aiohttp.api import build_api
from chatflow.adapters.aiohttp.bearer import Bearers
from chatflow.adapters.aiohttp.health import HealthReport
from chatflow.adapters.aiohttp.metrics import QueryCollector
from chatflow.adapters.aiohttp.pages import GatewayAddress, PageLimits
from chatflow.adapters.aiohttp.server import HttpServer, serve
from chatflow.adapters.prometheus import registry_of
from chatflow.domain.admission.rules import Admission
from chatflow.domain.reading.answers import Tier
from chatflow.domain.reading.query_service import QueryService
from chatflow.entrypoints.roles.health_checks import WORDS, answers, cache_word
from chatflow.entrypoints.roles.ports import port_limits_of
from chatflow.entrypoints.roles.process import Lifetime, listening
from chatflow.entrypoints.roles.reporting import Identity, counts_of, report_for_ever
from chatflow.entrypoints.settings import ApiSettings
from chatflow.ports.fleet import Fleet, RoleSnapshot
from chatflow.ports.lifecycle import Lifecycle
from chatflow.ports.tls import TlsListener

FLEET_FRESH_S = 0.25
"""Seconds for which the api may answer from the same snapshots; processes report four times as rarely."""

log = structlog.get_logger()


@attrs.define(eq=False)
class ApiRole:
    """Answers queries until closed."""

    settings: ApiSettings
    identity: Identity
    queries: QueryService
    store: Lifecycle
    fleet: Fleet
    gateway_port: int
    admission: Admission
    tls: TlsListener | None = attrs.field(kw_only=True, default=None)
    bearers: Bearers | None = attrs.field(kw_only=True, default=None)
    port: int = attrs.field(default=0, init=False)
    _server: HttpServer | None = attrs.field(default=None, init=False)

    async def start(self, lifetime: Lifetime) -> None:
        """Listen, and report to the fleet.

        Raises:
            StartError: the port is taken.
        """
        common, port = self.settings.common, self.settings.api_port
        host = common.host
        with listening("CHATFLOW_API_PORT", host, port):
            self._server = await serve(
                self._application(),
                host=host,
                port=port,
                limits=port_limits_of(common),
                tls=self.tls,
                fallback=common.driver_fallback,
            )
        self.port = self._server.port
        self.admission.ports.add(self.port)
        lifetime.run(report_for_ever(self.fleet, self.snapshot))
        if (local := self.queries.cache.local) is not None:
            lifetime.run(local.follow())
        log.info("api.listening", port=self.port)

    def _application(self) -> web.Application:
        settings, limits = self.settings, self.settings.limits
        registry = registry_of(self.snapshot)
        registry.register(QueryCollector(self.queries.cache.metrics))
        return build_api(
            self.queries,
            fleet=self.fleet,
            own=self.snapshot,
            health=self.health,
            registry=registry,
            gateway=GatewayAddress(
                settings.gateway_url, self.gateway_port, settings.common.auth, is_encrypted=self.tls is not None
            ),
            limits=PageLimits(limits.message_max_chars, limits.username_min_chars, limits.username_max_chars),
            admission=self.admission,
            bearers=self.bearers,
            fleet_fresh_s=FLEET_FRESH_S,
        )

    async def drain(self) -> None:
        """Answer the requests under way, and take no more."""
        if self._server is not None:
            await self._server.close()

    async def close(self) -> None:
        """Stop listening, and the refreshes under way."""
        await self.drain()
        await self.queries.cache.close()

    async def health(self) -> HealthReport:
        """Healthy while the store answers; the cache is optional."""
        store_up = await answers(self.store.ping)
        return HealthReport(store_up, {"store": WORDS[store_up], "cache": await cache_word(self.queries.cache.shared)})

    def snapshot(self) -> RoleSnapshot:
        """See `RoleSnapshot`."""
        metrics = self.queries.cache.metrics
        counters = {
            "cache_l1_hits": metrics.answered_by(Tier.LOCAL),
            "cache_l2_hits": metrics.answered_by(Tier.SHARED),
            "cache_misses": metrics.answered_by(Tier.MISS),
            "cache_errors": metrics.cache_errors,
        }
        counters |= counts_of(self.admission.metrics)
        gauges = {} if self._server is None else {"connections": float(len(self._server.door))}
        if (local := self.queries.cache.local) is not None:
            counters["l1_evictions"] = local.answers.evictions
            gauges["l1_entries"] = float(len(local.answers))
        return self.identity.snapshot(counters, gauges, {"cache": self._cache_word()})

    def _cache_word(self) -> str:
        if (shared := self.queries.cache.shared) is None:
            return "off"
        if not self.settings.common.shares_cache:
            return "memory"
        return "up" if shared.is_available() else "down"
