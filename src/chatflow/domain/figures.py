"""Plain counts that the services keep of themselves; entrypoints turn them into metrics and fleet snapshots."""

from bisect import bisect_left
from collections import Counter, defaultdict

import attrs

from chatflow.domain.reading.answers import Source


@attrs.define
class Histogram:
    """Counts by upper bound (inclusive), Prometheus style; values above the last bound only count in ``count``."""

    bounds: tuple[float, ...]
    counts: list[int] = attrs.field(init=False)
    count: int = attrs.field(default=0, init=False)
    total: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * len(self.bounds)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        self.total += value
        at = bisect_left(self.bounds, value)
        if at < len(self.counts):
            self.counts[at] += 1

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that holds the ``q`` quantile; 0.0 when empty, the last bound when above."""
        rank, seen = q * self.count, 0
        if not self.count:
            return 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            seen += count
            if seen >= rank:
                return bound
        return self.bounds[-1]


LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZE_BOUNDS = (1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 500.0, 1000.0, 2000.0, 3000.0)


def _latency() -> Histogram:
    return Histogram(LATENCY_BOUNDS_S)


def _sizes() -> Histogram:
    return Histogram(SIZE_BOUNDS)


@attrs.define
class GatewayFigures:
    """What one gateway did since it started. ``errors`` counts refused frames; the rest count messages or sockets."""

    messages_received: int = 0
    messages_published: int = 0
    errors: int = 0
    queue_published: int = 0
    queue_failures: int = 0
    refused: int = 0
    connections_opened: int = 0
    connections_open: int = 0
    slow_readers_dropped: int = 0
    silent_peers_dropped: int = 0
    protocol_violators_dropped: int = 0
    memory_holders_paused: int = 0
    memory_holders_dropped: int = 0
    delivered: int = 0
    repaired: int = 0
    confirm_s: Histogram = attrs.field(factory=_latency)
    envelope_messages: Histogram = attrs.field(factory=_sizes)


@attrs.define
class ProcessorFigures:
    """What one processor did since it started, in messages unless the name says otherwise."""

    consumed: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    batches: int = 0
    batch_failures: int = 0
    buffered: int = 0
    live_failures: int = 0
    invalidation_failures: int = 0
    slowest_batch_s: float = 0.0
    batch_messages: Histogram = attrs.field(factory=_sizes)
    batch_s: Histogram = attrs.field(factory=_latency)
    accepted_to_stored_s: Histogram = attrs.field(factory=_latency)


@attrs.define(eq=False)
class QueryFigures:
    """Reads since start. ``answers``: by query and source; ``took_s``: seconds of answering, by query."""

    answers: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    took_s: defaultdict[str, Histogram] = attrs.field(factory=lambda: defaultdict(_latency))
    stale: int = 0
    refreshes: int = 0
    cache_errors: int = 0

    def from_source(self, source: Source) -> int:
        """Answers to any query that came from this tier."""
        return sum(count for (_, tier), count in self.answers.items() if tier == source)
