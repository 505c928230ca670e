"""The counters of the read side."""

from collections import Counter, defaultdict

import attrs

from chatflow.domain.metrics import Histogram, latencies
from chatflow.domain.reading.answers import Tier


@attrs.define(eq=False)
class ReadingMetrics:
    """Since start. ``answers``: by query and tier; ``took_s``: seconds from query to answer, by query."""

    answers: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    took_s: defaultdict[str, Histogram] = attrs.field(factory=lambda: defaultdict(latencies))
    stale: int = 0
    refreshes: int = 0
    cache_errors: int = 0

    def answered_by(self, tier: Tier) -> int:
        """Answers to any query that came from this tier."""
        return sum(count for (_, source), count in self.answers.items() if source == tier)
