"""Role ``gateway``: WebSocket entry and live delivery."""

import asyncio
from collections.abc import Mapping

import attrs
import structlog

from chatflow.adapters.aiohttp.bearer import Bearers
from chatflow.adapters.aiohttp.health import SERVICE, HealthReport, build_health
from chatflow.adapters.aiohttp.server import HttpServer, serve
from chatflow.adapters.prometheus import registry_of
from chatflow.adapters.websockets.server import GatewayServer
from chatflow.domain.delivery.live_delivery import LiveDelivery
from chatflow.domain.identity.faults import WHY_REFUSED
from chatflow.domain.identity.revocation_watch import RevocationWatch
from chatflow.domain.metrics import Histogram
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.errors import FORBIDDEN
from chatflow.entrypoints.roles.health_checks import WORDS, answers
from chatflow.entrypoints.roles.ports import port_limits_of
from chatflow.entrypoints.roles.process import Lifetime, listening
from chatflow.entrypoints.roles.reporting import Identity, counts_of, report_for_ever
from chatflow.entrypoints.settings import GatewaySettings
from chatflow.ports.broker import Broker, LiveChannel
from chatflow.ports.errors import TokenFault
from chatflow.ports.fleet import Fleet, RoleSnapshot
from chatflow.ports.lifecycle import Lifecycle
from chatflow.ports.tls import TlsListener

CLOSE_SPREAD_S = 2.0

log = structlog.get_logger()


@attrs.define(eq=False)
class GatewayRole:
    """Listens, accepts, delivers; `drain` settles everything that was taken before the sockets close."""

    settings: GatewaySettings
    identity: Identity
    context: GatewayContext
    server: GatewayServer
    broker: Broker
    live: LiveChannel
    store: Lifecycle
    fleet: Fleet
    tls: TlsListener | None = attrs.field(kw_only=True, default=None)
    bearers: Bearers | None = attrs.field(kw_only=True, default=None)
    revocation_watch: RevocationWatch | None = attrs.field(kw_only=True, default=None)
    port: int = attrs.field(default=0, init=False)
    _store_is_up: bool = attrs.field(default=True, init=False)
    _health: HttpServer | None = attrs.field(default=None, init=False)

    async def start(self, lifetime: Lifetime) -> None:
        """Listen, and start the loops.

        Raises:
            StartError: a port is taken.
        """
        settings, host = self.settings, self.settings.common.host
        port, fallback = settings.gateway_health_port, settings.common.driver_fallback
        registry = registry_of(self.snapshot, self._histograms)
        app = build_health("gateway", self.health, registry, self.server.doorway.admission, self.bearers)
        limits = port_limits_of(settings.common, is_health=True)
        with listening("CHATFLOW_GATEWAY_HEALTH_PORT", host, port):
            self._health = await serve(app, host=host, port=port, limits=limits, tls=self.tls, fallback=fallback)
        lifetime.run(self.context.publisher.run(), self.server.sweep(), self._delivery().run())
        lifetime.run(self._watch_store())
        if self.revocation_watch is not None:
            self.revocation_watch.on_news.append(self._disconnect_revoked)
        lifetime.run(report_for_ever(self.fleet, self.snapshot))
        with listening("CHATFLOW_GATEWAY_PORT", host, settings.gateway_port):
            self.port = await self.server.start(host, settings.gateway_port)
        log.info("gateway.listening", port=self.port, health_port=self._health.port)

    async def drain(self) -> None:
        """Refuse what is new, settle what was taken, and send everybody elsewhere."""
        self.server.stop_accepting()
        await self.context.publisher.drain()
        await asyncio.sleep(0)  # the acks of this tick go out before the close frames
        await self.server.close_connections(CLOSE_SPREAD_S)
        received, published = self.context.metrics.messages_received, self.context.publisher.metrics.messages_published
        log.info("gateway.drained", received=received, published=published)

    async def close(self) -> None:
        """Stop answering health checks."""
        if self._health is not None:
            await self._health.close()

    async def health(self) -> HealthReport:
        """Ready for new connections while messages can be accepted. The store, as last seen, only serves the past."""
        up = await answers(self.broker.ping) and self.context.publisher.breaker.retry_in_s() == 0
        metrics, ingest = self.context.metrics, self.context.publisher.metrics
        counts = {
            "messagesReceived": metrics.messages_received,
            "messagesPublished": ingest.messages_published,
            "errors": metrics.errors,
            "queuePublished": ingest.queue_published,
            "queueFailures": ingest.queue_failures,
            "circuitBreaker": self.context.publisher.breaker.state.value,
            "availableChannels": self.broker.open_channels,
        }
        details = {"service": SERVICE, "serverId": self.identity.instance, "metrics": counts}
        is_ready = up and not self.server.is_draining
        return HealthReport(is_ready, {"broker": WORDS[up], "store": WORDS[self._store_is_up]}, details)

    def snapshot(self) -> RoleSnapshot:
        """See `RoleSnapshot`."""
        context, breaker = self.context, self.context.publisher.breaker
        counts = counts_of(context.metrics) | counts_of(context.publisher.metrics) | counts_of(context.hub.metrics)
        if context.authenticator is not None:
            counts |= context.authenticator.counts()
        counts |= counts_of(self.server.doorway.admission.metrics)
        gauges = {
            "connections": float(counts.pop("connections_open")),
            "handshakes": float(len(self.server.doorway)),
            "rooms": float(self.context.hub.active_rooms),
            "pending_bytes": float(self.context.publisher.pending_bytes),
            "connection_bytes": float(self.context.memory.total_bytes),
            "remembered_ids": float(len(self.context.recent_ids)),
        }
        return self.identity.snapshot(
            counts | {"breaker_trips": breaker.trips}, gauges, {"circuitBreaker": breaker.state.value}
        )

    def _histograms(self) -> Mapping[str, Histogram]:
        metrics = self.context.publisher.metrics
        return {"confirm_seconds": metrics.confirm_s, "envelope_messages": metrics.envelope_messages}

    def _disconnect_revoked(self) -> None:
        if (revocations := self.context.revocations) is not None:
            reason = WHY_REFUSED[TokenFault.REVOKED]
            count = self.context.roster.disconnect(revocations.is_revoked, FORBIDDEN, reason)
            self.context.metrics.sessions_revoked += count

    def _delivery(self) -> LiveDelivery:
        return LiveDelivery(
            self.live,
            (self.context.hub, self.context.stored_acks),
            limit=self.settings.live_queue,
            resync_s=self.settings.resync_s,
            resync_failed=lambda exc: log.warning("gateway.resync_failed", error=str(exc)),
        )

    async def _watch_store(self) -> None:
        while True:
            self._store_is_up = await answers(self.store.ping)
            await asyncio.sleep(self.settings.resync_s)
