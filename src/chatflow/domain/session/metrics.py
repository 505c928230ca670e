"""What connections count."""

import attrs


@attrs.define
class SessionMetrics:
    """Since the gateway started, in messages or connections.

    ``errors`` counts refused frames, ``conflicts`` those of them whose id stands for another message.
    """

    messages_received: int = 0
    errors: int = 0
    conflicts: int = 0
    connections_opened: int = 0
    connections_open: int = 0
    slow_readers_dropped: int = 0
    silent_peers_dropped: int = 0
    protocol_violators_dropped: int = 0
    tokens_accepted: int = 0
    tokens_refused: int = 0
    tokens_unchecked: int = 0
    tokens_expired: int = 0
    sessions_revoked: int = 0
    not_granted: int = 0
    memory_holders_paused: int = 0
    memory_holders_dropped: int = 0
    rate_pauses: int = 0
    rate_abusers_dropped: int = 0
    connections_refused: int = 0
    sessions_refused: int = 0
    quota_refused: int = 0
