"""What persisting counts."""

import attrs

from chatflow.domain.metrics import Histogram, latencies, sizes


@attrs.define
class PersistenceMetrics:
    """What one processor did since it started, in messages unless the name says otherwise."""

    consumed: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    batches: int = 0
    batch_failures: int = 0
    sequence_collisions: int = 0
    buffered: int = 0
    live_failures: int = 0
    invalidation_failures: int = 0
    slowest_batch_s: float = 0.0
    batch_messages: Histogram = attrs.field(factory=sizes)
    batch_s: Histogram = attrs.field(factory=latencies)
    accepted_to_stored_s: Histogram = attrs.field(factory=latencies)
