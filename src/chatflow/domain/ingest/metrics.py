"""What publishing counts."""

import attrs

from chatflow.domain.metrics import Histogram, latencies, sizes


@attrs.define
class IngestMetrics:
    """Since the gateway started, in messages; ``queue_published`` and ``queue_failures`` count envelopes.

    ``heavy_held_back`` counts those that left messages of heavy senders behind for the sake of others.
    """

    messages_published: int = 0
    queue_published: int = 0
    queue_failures: int = 0
    refused: int = 0
    heavy_held_back: int = 0
    confirm_s: Histogram = attrs.field(factory=latencies)
    envelope_messages: Histogram = attrs.field(factory=sizes)
