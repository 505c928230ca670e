"""Stop asking a dependency that keeps failing; find out with one probe when it is back.

The states are those of Nygard's *Release It!* (2007): CLOSED lets all calls through, OPEN none, and after
``reset_s`` one caller alone is let through (HALF_OPEN). Its success closes the circuit, its failure opens it again.
"""

import enum
from collections.abc import Iterable

import attrs

from chatflow.ports.clock import Clock
from chatflow.ports.errors import CircuitOpen

FAILURES, RESET_S = 5, 15.0
"""The defaults, of the settings too."""


class BreakerState(enum.Enum):
    """Where the circuit stands."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


_SEVERITY = [BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN]


@attrs.define
class CircuitBreaker:
    """Counts consecutive failures; ``failures`` of them open the circuit for ``reset_s`` seconds.

    Each `allow` that does not raise must be followed by `success` or `failure`. A probe that never reports (its
    task was cancelled) is given up after another ``reset_s``, so that the circuit cannot stay half open for ever.
    """

    clock: Clock
    failures: int = FAILURES
    reset_s: float = RESET_S
    trips: int = attrs.field(default=0, init=False)
    _consecutive: int = attrs.field(default=0, init=False)
    _state: BreakerState = attrs.field(default=BreakerState.CLOSED, init=False)
    _since: float = attrs.field(default=0.0, init=False)

    @property
    def state(self) -> BreakerState:
        """The state as last decided; OPEN until somebody asks after ``reset_s``."""
        return self._state

    @property
    def consecutive_failures(self) -> int:
        """Failures since the last success."""
        return self._consecutive

    def retry_in_s(self) -> float:
        """Seconds until `allow` may let a caller through; 0.0 when it would now."""
        if self._state is BreakerState.CLOSED:
            return 0.0
        return max(0.0, self._since + self.reset_s - self.clock())

    def allow(self) -> None:
        """Let this caller through, as the probe if need be.

        Raises:
            CircuitOpen: do not call.
        """
        if self._state is BreakerState.CLOSED:
            return
        wait = self.retry_in_s()
        if wait > 0:
            raise CircuitOpen(retry_in_s=wait)
        self._state = BreakerState.HALF_OPEN
        self._since = self.clock()

    def probe_now(self) -> None:
        """The dependency has shown a sign of life by another way: wait no longer, the next caller is the probe."""
        if self._state is BreakerState.OPEN:
            self._since = min(self._since, self.clock() - self.reset_s)

    def success(self) -> None:
        """The call that was let through worked."""
        self._consecutive = 0
        if self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.CLOSED

    def failure(self) -> bool:
        """The call that was let through failed; true when this opened the circuit."""
        self._consecutive += 1
        if self._state is BreakerState.OPEN:
            return False
        if self._state is BreakerState.HALF_OPEN or self._consecutive >= self.failures:
            self._state = BreakerState.OPEN
            self._since = self.clock()
            self.trips += 1
            return True
        return False


def worst_state(breakers: Iterable[CircuitBreaker]) -> BreakerState:
    """OPEN if any of them is, else HALF_OPEN if any is, else CLOSED."""
    states = {breaker.state for breaker in breakers}
    return max(states, key=_SEVERITY.index, default=BreakerState.CLOSED)
