"""The handshakes under way on the gateway's port: how many there may be, and who goes when there are too many."""

import attrs
from websockets.asyncio.server import ServerConnection

from chatflow.domain.admission.answers import turned_away
from chatflow.domain.admission.bounds import HANDSHAKES_MAX, HEAD_TIMEOUT_S, SEND_BUFFER_BYTES
from chatflow.domain.admission.rules import Admission

FULL = turned_away(503, "too many handshakes are under way\n", retry_s=1)


class Newcomer(ServerConnection):
    """A connection whose handshake is not done, as the doorway sees it."""

    def turn_away(self, answer: bytes) -> None:
        """Answer with this, and read nothing more."""


@attrs.define(eq=False)
class Doorway:
    """Newcomers in the order in which they came.

    Whoever has not sent a whole request is the first to go: a full doorway keeps nobody out who does.

    Args:
        admission: who may come in.
        limit: newcomers at a time.
        head_timeout_s: seconds that the head of a request may take.
        proxy_protocol: connections from trusted proxies begin with a PROXY header.
        send_buffer_bytes: what the kernel may hold of a connection's unsent bytes.
    """

    admission: Admission = attrs.field(factory=Admission)
    limit: int = attrs.field(default=HANDSHAKES_MAX, kw_only=True)
    head_timeout_s: float = attrs.field(default=HEAD_TIMEOUT_S, kw_only=True)
    proxy_protocol: bool = attrs.field(default=False, kw_only=True)
    send_buffer_bytes: int = attrs.field(default=SEND_BUFFER_BYTES, kw_only=True)
    _silent: dict[Newcomer, None] = attrs.field(factory=dict, init=False)
    _asking: set[Newcomer] = attrs.field(factory=set, init=False)

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking)

    def expects_header(self, peer: str) -> bool:
        """Whether a connection from there begins with a PROXY header."""
        return self.proxy_protocol and self.admission.standing(peer) == "proxy"

    def enter(self, newcomer: Newcomer) -> None:
        """It has connected."""
        if len(self) >= self.limit:
            if not self._silent:
                self.admission.metrics.connections_refused += 1
                newcomer.turn_away(FULL)
                return
            self.admission.metrics.connections_dropped += 1
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.turn_away(FULL)
        self._silent[newcomer] = None

    def asks(self, newcomer: Newcomer) -> None:
        """Its request is whole."""
        del self._silent[newcomer]
        self._asking.add(newcomer)

    def leave(self, newcomer: Newcomer) -> None:
        """It is in, or has gone; idempotent."""
        self._silent.pop(newcomer, None)
        self._asking.discard(newcomer)
