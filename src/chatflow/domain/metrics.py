"""Histograms, as plain counts; entrypoints turn them into Prometheus text and fleet snapshots."""

from bisect import bisect_left
from itertools import accumulate

import attrs


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

    def buckets(self) -> list[tuple[str, float]]:
        """Values up to each upper bound, and all of them up to ``+Inf``, as Prometheus wants them."""
        sums = zip(self.bounds, accumulate(self.counts), strict=True)
        return [*((str(bound), float(count)) for bound, count in sums), ("+Inf", float(self.count))]

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


def latencies() -> Histogram:
    """Of durations in seconds."""
    return Histogram(LATENCY_BOUNDS_S)


def sizes() -> Histogram:
    """Of batches in messages."""
    return Histogram(SIZE_BOUNDS)
