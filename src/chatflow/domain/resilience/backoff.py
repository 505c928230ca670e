"""Exponential backoff: how long to wait before the next try."""

import attrs

_DOUBLINGS = 60
"""At most; a float would overflow one day."""


@attrs.frozen
class Backoff:
    """Pauses in seconds that double from ``first_s`` up to ``last_s``."""

    first_s: float
    last_s: float

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row, from 1."""
        return min(self.first_s * (1 << min(failures - 1, _DOUBLINGS)), self.last_s)

    def jittered_s(self, failures: int, draw: float) -> float:
        """The pause, 50 to 150 % of it for a ``draw`` from 0 to 1, so that many callers do not come back at once."""
        return self.pause_s(failures) * (0.5 + draw)
