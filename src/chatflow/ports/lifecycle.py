"""The lifecycle of whatever stands behind a port, the same for every technology."""

from typing import Protocol


class Lifecycle(Protocol):
    """Opened before its first use, closed after its last."""

    async def open(self) -> None:
        """Make it ready.

        Raises:
            ChatflowError: the port's ``Unavailable``: not reachable yet, open again. Any other: it never will be.
        """

    async def close(self) -> None:
        """Release everything; idempotent. Calls raise the port's ``Unavailable`` from then on."""

    async def ping(self) -> None:
        """Return if a call has a chance now; raises the port's ``Unavailable``."""
