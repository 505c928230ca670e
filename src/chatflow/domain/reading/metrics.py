"""What reading counts."""

from collections import Counter, defaultdict

import attrs

from chatflow.domain.metrics import Histogram, latencies
from chatflow.domain.reading.answers import Tier


@attrs.define(eq=False)
class ReadingMetrics:
    """Reads since start. ``answers``: by query and source; ``took_s``: seconds of answering, by query."""

    answers: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    took_s: defaultdict[str, Histogram] = attrs.field(factory=lambda: defaultdict(latencies))
    stale: int = 0
    refreshes: int = 0
    cache_errors: int = 0

    def from_source(self, source: Tier) -> int:
        """Answers to any query that came from this tier."""
        return sum(count for (_, tier), count in self.answers.items() if tier == source)
