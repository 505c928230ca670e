"""Counters of the persistence stage."""

import attrs

from chatflow.domain.metrics import Histogram, latencies, sizes


@attrs.define
class PersistenceMetrics:
    """What one processor did since it started, in messages unless the name says otherwise.

    Attributes:
        dropped: were buffered when their consumer ended; the broker delivers them again.
        conflicts: duplicates that differed from what is stored in room or text.
        consume_errors: consumers that broke, or could not be opened.
        batch_s: seconds of each commit.
        write_s: seconds of all batches, each from the start of its commit to its announcement.
    """

    consumed: int = 0
    dropped: int = 0
    consume_errors: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    dead_lettered: int = 0
    batches: int = 0
    batch_failures: int = 0
    sequence_collisions: int = 0
    buffered: int = 0
    live_failures: int = 0
    invalidation_failures: int = 0
    write_s: float = 0.0
    slowest_write_s: float = 0.0
    batch_messages: Histogram = attrs.field(factory=sizes)
    batch_s: Histogram = attrs.field(factory=latencies)
    accepted_to_stored_s: Histogram = attrs.field(factory=latencies)
