"""Each role reports a snapshot of itself to the fleet once a second, with rates over that second."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import attrs

from chatflow.ports.clock import Clock, WallClock
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.fleet import Fleet, RoleSnapshot

INTERVAL_S = 1.0


def counts_of(metrics: attrs.AttrsInstance) -> dict[str, int]:
    """The integer counts of a stage, by name."""
    return attrs.asdict(metrics, filter=lambda field, _: field.type is int)


@attrs.define(eq=False)
class Rates:
    """Rates of counters per second, and their peaks; call `tick` about once a second."""

    clock: Clock
    names: tuple[str, ...]
    _last: dict[str, int] = attrs.field(factory=dict, init=False)
    _at: float | None = attrs.field(default=None, init=False)
    _now: dict[str, float] = attrs.field(factory=dict, init=False)
    _peak: dict[str, float] = attrs.field(factory=dict, init=False)

    def tick(self, counters: Mapping[str, int]) -> None:
        """Compute the rates since the last call."""
        now = self.clock()
        if self._at is not None and now > self._at:
            for name in self.names:
                rate = (counters[name] - self._last.get(name, 0)) / (now - self._at)
                self._now[name] = rate
                self._peak[name] = max(rate, self._peak.get(name, 0.0))
        self._last = {name: counters[name] for name in self.names}
        self._at = now

    def gauges(self, shown: Mapping[str, str]) -> dict[str, float]:
        """Rates and peaks under other names: ``{"stored": "insert"}`` gives ``insert_rate``, ``peak_insert_rate``."""
        rates = {f"{word}_rate": self._now.get(name, 0.0) for name, word in shown.items()}
        return rates | {f"peak_{word}_rate": self._peak.get(name, 0.0) for name, word in shown.items()}


@attrs.frozen(eq=False)
class Identity:
    """Who reports; ``instance`` is unique per process start.

    Attributes:
        also: more gauges to report, such as those of a connection pool.
        counts: more counters to report, such as those of the process's audit trail.
    """

    role: str
    instance: str
    clock: Clock
    now_us: WallClock
    started: float
    also: Callable[[], Mapping[str, float]] = dict
    counts: Callable[[], Mapping[str, int]] = dict

    @property
    def uptime_s(self) -> float:
        """Seconds since start."""
        return self.clock() - self.started

    def snapshot(
        self, counters: Mapping[str, int], gauges: Mapping[str, float], states: Mapping[str, str]
    ) -> RoleSnapshot:
        """A snapshot of now."""
        known = {"uptime_s": self.uptime_s, **self.also(), **gauges}
        counted = {**counters, **self.counts()}
        return RoleSnapshot(self.role, self.instance, self.now_us(), counted, known, states)


async def report_for_ever(fleet: Fleet, snapshot: Callable[[], RoleSnapshot]) -> None:
    """Report once a second until cancelled; a report that fails is made up for by the next one."""
    while True:
        with contextlib.suppress(CacheUnavailable):
            await fleet.report(snapshot())
        await asyncio.sleep(INTERVAL_S)
