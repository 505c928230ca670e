"""What is counted at the door."""

import attrs


@attrs.define
class AdmissionMetrics:
    """Of all ports of one role, since it started.

    Attributes:
        requests_rejected: for their ``Host``, their ``Origin``, or for having none.
        heads_refused: requests that were malformed, too long, or not whole in time.
        connections_refused: answered with 503 because a port was full.
        connections_dropped: closed in the middle of nothing, to make room for others.
    """

    requests_rejected: int = 0
    heads_refused: int = 0
    connections_refused: int = 0
    connections_dropped: int = 0
