"""One client's connection, as the use cases see it."""

from collections.abc import Sequence
from typing import Protocol


class Socket(Protocol):
    """Frames go out in call order, or the connection ends: never one skipped.

    Sending never waits. A peer that reads too slowly to keep the outbound buffer under its limit is closed with
    1013; it comes back and says what it has seen.
    """

    def send(self, frames: Sequence[bytes]) -> None:
        """Queue UTF-8 JSON text frames; does nothing once the connection is closing."""

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; idempotent, does not wait."""

    async def drained(self) -> bool:
        """Wait until the outbound buffer is low; ``False`` when the connection is closing instead."""

    async def echoed(self) -> bool:
        """Wait until the peer has received all that was sent so far (ping and pong); ``False``: it is closing."""

    def is_open(self) -> bool:
        """Whether frames sent now may reach the peer."""
