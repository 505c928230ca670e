"""Role ``processor``: consume, persist, invalidate, publish live."""

import asyncio
from collections.abc import Mapping

import attrs
import structlog

from chatflow.adapters.aiohttp.bearer import Bearers
from chatflow.adapters.aiohttp.health import HealthReport, build_health
from chatflow.adapters.aiohttp.server import HttpServer, serve
from chatflow.adapters.prometheus import registry_of
from chatflow.domain.admission.rules import Admission
from chatflow.domain.metrics import Histogram
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor, run_processors
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker, worst_state
from chatflow.domain.resilience.recovery import watch_for_recovery
from chatflow.entrypoints.roles.health_checks import WORDS, answers, cache_word
from chatflow.entrypoints.roles.ports import port_limits_of
from chatflow.entrypoints.roles.process import Lifetime, listening
from chatflow.entrypoints.roles.reporting import Identity, Rates, counts_of, report_for_ever
from chatflow.entrypoints.settings import ProcessorSettings
from chatflow.ports.broker import Broker
from chatflow.ports.cache import Cache
from chatflow.ports.fleet import Fleet, RoleSnapshot
from chatflow.ports.store import MessageStore
from chatflow.ports.tls import TlsListener

RATES = {"consumed": "consume", "written": "write", "stored": "insert"}

log = structlog.get_logger()


@attrs.define(eq=False)
class ProcessorRole:
    """Runs one loop per partition; `drain` stores and acks what was taken."""

    settings: ProcessorSettings
    identity: Identity
    processors: list[PartitionProcessor]
    metrics: PersistenceMetrics
    broker: Broker
    store: MessageStore
    cache: Cache | None
    fleet: Fleet
    rates: Rates
    admission: Admission
    tls: TlsListener | None = attrs.field(kw_only=True, default=None)
    bearers: Bearers | None = attrs.field(kw_only=True, default=None)
    _health: HttpServer | None = attrs.field(default=None, init=False)
    _partitions: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    async def start(self, lifetime: Lifetime) -> None:
        """Answer health checks, and start the loops.

        Raises:
            StartError: the port is taken.
        """
        common, port = self.settings.common, self.settings.processor_health_port
        host = common.host
        registry = registry_of(self.snapshot, self._histograms)
        app = build_health("processor", self.health, registry, self.admission, self.bearers)
        limits = port_limits_of(common, is_health=True)
        with listening("CHATFLOW_PROCESSOR_HEALTH_PORT", host, port):
            self._health = await serve(
                app, host=host, port=port, limits=limits, tls=self.tls, fallback=common.driver_fallback
            )
        (self._partitions,) = lifetime.run(run_processors(self.processors))
        lifetime.run(report_for_ever(self.fleet, self._tick))
        lifetime.run(watch_for_recovery(self._breakers, self.store.ping))
        log.info("processor.started", partitions=len(self.processors), health_port=self._health.port)

    async def drain(self) -> None:
        """Take nothing more, and wait until what was taken is stored and acked."""
        for processor in self.processors:
            processor.stop()
        if self._partitions is not None:
            await asyncio.wait((self._partitions,))

    async def close(self) -> None:
        """Stop answering health checks."""
        if self._health is not None:
            await self._health.close()
        log.info("processor.stopped", stored=self.metrics.stored, duplicates=self.metrics.duplicates)

    async def health(self) -> HealthReport:
        """Healthy while every partition can take from the broker and write to the store; the cache is optional."""
        broker_up = await answers(self.broker.ping)
        store_up = await answers(self.store.ping)
        needed = {"broker": WORDS[broker_up], "store": WORDS[store_up], "cache": await cache_word(self.cache)}
        stopped = {str(each.partition): str(each.stopped_by) for each in self.processors if each.stopped_by is not None}
        details = {
            "circuitBreaker": worst_state(self._breakers).value,
            "buffered": self.metrics.buffered,
            "stoppedPartitions": stopped,
        }
        return HealthReport(broker_up and store_up and not stopped, needed, details)

    def snapshot(self) -> RoleSnapshot:
        """See `RoleSnapshot`."""
        metrics = self.metrics
        gauges = {
            "buffered": float(metrics.buffered),
            "breaker_failures": float(max(breaker.consecutive_failures for breaker in self._breakers)),
            "batch_max_ms": metrics.slowest_write_s * 1000,
            **self.rates.gauges(RATES),
        }
        states = {
            "circuitBreaker": worst_state(self._breakers).value,
            "summaries": "on" if self.settings.common.profile.summaries else "off",
        }
        return self.identity.snapshot(self._counters(), gauges, states)

    @property
    def _breakers(self) -> list[CircuitBreaker]:
        return [each.breaker for each in self.processors]

    def _counters(self) -> dict[str, int]:
        metrics = self.metrics
        counts = counts_of(metrics)
        del counts["buffered"]
        return counts | {
            "batch_us": int(metrics.batch_s.total * 1e6),
            "write_us": int(metrics.write_s * 1e6),
            "breaker_trips": sum(breaker.trips for breaker in self._breakers),
            "written": metrics.stored + metrics.duplicates + metrics.dead_lettered,
        }

    def _tick(self) -> RoleSnapshot:
        self.rates.tick(self._counters())
        return self.snapshot()

    def _histograms(self) -> Mapping[str, Histogram]:
        metrics = self.metrics
        return {
            "batch_messages": metrics.batch_messages,
            "batch_seconds": metrics.batch_s,
            "accepted_to_stored_seconds": metrics.accepted_to_stored_s,
        }
