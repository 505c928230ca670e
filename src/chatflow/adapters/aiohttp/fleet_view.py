"""What ``/api/health`` and ``/api/metrics`` show of the fleet: counts and gauges, summed over living processes.

Exceptions: ``uptime_s`` and ``batch_max_ms`` are the largest of all processes, the circuit breaker's state the worst.
A peak is the sum of each process's own peak, an upper bound of the fleet's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from chatflow.adapters.aiohttp.fleet_answers import (
    BufferSection,
    CacheHealth,
    CircuitBreakerSection,
    ConnectionsSection,
    ConsumerSection,
    FleetHealth,
    FleetMetrics,
    LatencySection,
    Pool,
    QueryCacheSection,
    RedisCacheSection,
    RoomsSection,
    ThroughputSection,
    TotalsSection,
)
from chatflow.adapters.aiohttp.health import SERVICE
from chatflow.ports.fleet import RoleSnapshot

_WORST_FIRST = ("OPEN", "HALF_OPEN", "CLOSED")
_LARGEST = frozenset({"uptime_s", "batch_max_ms"})


@attrs.define
class FleetView:
    """Sums over snapshots; names that nobody reports are 0."""

    counters: Counter[str]
    gauges: dict[str, float]
    states: dict[str, set[str]]

    @classmethod
    def of(cls, snapshots: Sequence[RoleSnapshot]) -> "FleetView":
        """Add the snapshots up."""
        view = cls(Counter(), {}, {})
        for snapshot in snapshots:
            view.counters.update(snapshot.counters)
            view._add_gauges(snapshot.gauges.items())
            for name, word in snapshot.states.items():
                view.states.setdefault(name, set()).add(word)
        return view

    def _add_gauges(self, gauges: Iterable[tuple[str, float]]) -> None:
        for name, value in gauges:
            before = self.gauges.get(name, 0.0)
            self.gauges[name] = max(before, value) if name in _LARGEST else before + value

    def gauge(self, name: str) -> float:
        """Rounded to a tenth."""
        return round(self.gauges.get(name, 0.0), 1)

    def count(self, name: str) -> int:
        """A gauge that counts things."""
        return int(self.gauges.get(name, 0))

    def breaker(self) -> str:
        """The worst state of any breaker; ``UNKNOWN`` when no process has reported one."""
        words = self.states.get("circuitBreaker", set())
        return next((word for word in _WORST_FIRST if word in words), "UNKNOWN")

    def metrics(self) -> FleetMetrics:
        """The body of ``/api/metrics``."""
        return FleetMetrics(
            throughput=self._throughput(),
            totals=self._totals(),
            latency=self._latency(),
            buffer=BufferSection(self.count("buffered"), self.counters["consumed"], self.counters["dropped"]),
            database=self._connections("writer"),
            reader_pool=self._connections("reader"),
            query_cache=self._query_cache(),
            circuit_breaker=CircuitBreakerSection(
                self.breaker(), self.count("breaker_failures"), self.counters["breaker_trips"]
            ),
            consumer=ConsumerSection(
                self.counters["consumed"], self.counters["consume_errors"], self.counters["duplicates"]
            ),
            rooms=RoomsSection(self.count("rooms"), self.count("connections")),
            redis_cache=self._redis_cache(),
            uptime=self.count("uptime_s"),
            summary_tables_enabled="on" in self.states.get("summaries", set()),
        )

    def health(self, *, healthy: bool) -> FleetHealth:
        """The body of ``/api/health``."""
        breaker = self.breaker()
        cache = self._query_cache()
        return FleetHealth(
            status="healthy" if healthy and breaker in {"CLOSED", "UNKNOWN"} else "degraded",
            service=SERVICE,
            circuit_breaker=breaker,
            uptime=self.count("uptime_s"),
            db_connections=self._pool("writer"),
            reader_pool=self._pool("reader"),
            query_cache=CacheHealth(cache.size, cache.hit_ratio),
            redis_cache=self._redis_cache(),
        )

    def _redis_cache(self) -> RedisCacheSection:
        """The shared tier of the cache, if it is Redis."""
        words = self.states.get("cache", set()) - {"memory", "off"}
        if not words:
            return RedisCacheSection(enabled=False, available=False, hits=0, misses=0, errors=0, hit_ratio=0.0)
        hits, misses = self.counters["cache_l2_hits"], self.counters["cache_misses"]
        return RedisCacheSection(
            enabled=True,
            available="up" in words,
            hits=hits,
            misses=misses,
            errors=self.counters["cache_errors"],
            hit_ratio=_ratio(hits, misses),
        )

    def _query_cache(self) -> QueryCacheSection:
        """The tiers inside processes: the local one, and the second one of an embedded process."""
        hits, misses = self.counters["cache_l1_hits"], self.counters["cache_misses"]
        if "memory" in self.states.get("cache", set()):
            hits += self.counters["cache_l2_hits"]
        else:
            misses += self.counters["cache_l2_hits"]
        size, evictions = self.count("l1_entries"), self.counters["l1_evictions"]
        return QueryCacheSection(size, hits, misses, _ratio(hits, misses), evictions)

    def _throughput(self) -> ThroughputSection:
        up_s = self.gauges.get("uptime_s", 0.0)
        return ThroughputSection(
            self.gauge("consume_rate"),
            self.gauge("write_rate"),
            self.gauge("insert_rate"),
            self.gauge("peak_consume_rate"),
            self.gauge("peak_write_rate"),
            self.gauge("peak_insert_rate"),
            round(self.counters["stored"] / up_s, 1) if up_s else 0.0,
        )

    def _totals(self) -> TotalsSection:
        counters = self.counters
        attempted = counters["stored"] + counters["duplicates"] + counters["dead_lettered"]
        return TotalsSection(
            messages_received=counters["messages_received"],
            messages_published=counters["messages_published"],
            messages_consumed=counters["consumed"],
            messages_attempted=attempted,
            messages_inserted=counters["stored"],
            batches_written=counters["batches"],
            db_inserts=counters["stored"],
            db_attempted=attempted,
            db_failed=counters["batch_failures"],
            duplicates_skipped=counters["duplicates"],
            dlq_messages=counters["dead_lettered"],
        )

    def _latency(self) -> LatencySection:
        batches = self.counters["batches"]
        write_ms, commit_ms = (
            round(self.counters[name] / batches / 1000, 1) if batches else 0.0 for name in ("write_us", "batch_us")
        )
        return LatencySection(write_ms, self.gauge("batch_max_ms"), commit_ms)

    def _connections(self, pool: str) -> ConnectionsSection:
        p = self._pool(pool)
        return ConnectionsSection(p.active, p.idle, p.total, p.waiting)

    def _pool(self, pool: str) -> Pool:
        return Pool(*(self.count(f"{pool}_{what}") for what in ("active", "idle", "total", "waiting")))


def _ratio(hits: int, misses: int) -> float:
    return round(hits / (hits + misses), 4) if hits + misses else 0.0
