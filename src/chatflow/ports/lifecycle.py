"""The lifecycle of whatever stands behind a port, the same for every technology."""

from typing import Protocol


class Lifecycle(Protocol):
    """Opened before its first use, closed after its last."""

    async def open(self) -> None:
        """Make it ready; what the fleet can do without opens whether its server answers or not.

        Raises:
            ChatflowError: the port's ``Unavailable``: not reachable yet, open again. Any other: it never will be.
        """

    async def close(self) -> None:
        """Release everything, also what a failed `open` left; idempotent. From then on `ping` raises."""

    async def ping(self) -> None:
        """Return if a call has a chance now; raises the port's ``Unavailable``."""
