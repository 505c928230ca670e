"""The read side's counts for Prometheus, read when scraped: nothing is paid per request."""

from collections.abc import Iterator

import attrs
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chatflow.domain.reading.metrics import ReadingMetrics


@attrs.frozen(eq=False)
class QueryCollector(Collector):
    """Register it once in a process's registry."""

    metrics: ReadingMetrics

    def collect(self) -> Iterator[Metric]:
        """The present counts."""
        metrics = self.metrics
        answers = CounterMetricFamily(
            "chatflow_query_answers", "Answers by query and tier.", labels=["query", "source"]
        )
        for (query, source), count in list(metrics.answers.items()):
            answers.add_metric([query, source], count)
        yield answers
        took = HistogramMetricFamily("chatflow_query_seconds", "Seconds from query to answer.", labels=["query"])
        for query, histogram in list(metrics.took_s.items()):
            took.add_metric([query], histogram.buckets(), histogram.total)
        yield took
        yield CounterMetricFamily("chatflow_query_stale", "Served while refreshing.", metrics.stale)
        yield CounterMetricFamily("chatflow_query_refreshes", "Early refreshes.", metrics.refreshes)
        yield CounterMetricFamily("chatflow_query_cache_errors", "Done without the cache.", metrics.cache_errors)
