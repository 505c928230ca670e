"""Prometheus metrics from a role's own counts, read only when scraped, so that counting costs nothing extra."""

from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from chatflow.domain.metrics import Histogram
from chatflow.ports.fleet import RoleSnapshot


@attrs.frozen(eq=False)
class RoleCollector(Collector):
    """The counters and gauges of a role's snapshot, and its histograms, as ``chatflow_<role>_<name>``."""

    snapshot: Callable[[], RoleSnapshot]
    histograms: Callable[[], Mapping[str, Histogram]] = dict

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        snapshot = self.snapshot()
        prefix = f"chatflow_{snapshot.role}_"
        for name, count in snapshot.counters.items():
            yield CounterMetricFamily(prefix + name, _title(name), value=count)
        for name, value in snapshot.gauges.items():
            yield GaugeMetricFamily(prefix + name, _title(name), value=value)
        for name, state in snapshot.states.items():
            family = GaugeMetricFamily(prefix + _snake(name), _title(name), labels=["state"])
            family.add_metric([state], 1)
            yield family
        for name, histogram in self.histograms().items():
            yield HistogramMetricFamily(
                prefix + name, _title(name), buckets=histogram.buckets(), sum_value=histogram.total
            )


def registry_of(
    snapshot: Callable[[], RoleSnapshot], histograms: Callable[[], Mapping[str, Histogram]] = dict
) -> CollectorRegistry:
    """A registry of one role, with the process's own metrics beside it."""
    registry = CollectorRegistry()
    registry.register(RoleCollector(snapshot, histograms))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _title(name: str) -> str:
    return name.replace("_", " ")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
