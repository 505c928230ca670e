"""Count what no client does that speaks the protocol."""

import math

import attrs

from chatflow.domain.messages.errors import Malformed
from chatflow.domain.session.errors import Denied
from chatflow.ports.clock import Clock
from chatflow.ports.errors import ChatflowError, TokenRefused

FORGOTTEN_AFTER_S = 60.0


@attrs.define(eq=False)
class Violations:
    """A leaky bucket: ``most`` of them are forgotten within a minute, so an honest client never gets there.

    Frames and items that cannot be parsed count, requests before hello, and refused tokens. A name, room or text that
    breaks a rule does not, since people type those; nor does a refusal, which is ours.
    """

    clock: Clock
    most: int
    _level: float = attrs.field(default=0.0, init=False)
    _at: float = attrs.field(default=-math.inf, init=False)

    def add(self, error: ChatflowError) -> bool:
        """Count the error if it counts; whether it was one too many."""
        is_unauthorized = isinstance(error, TokenRefused) or (
            isinstance(error, Denied) and error.code == "unauthorized"
        )
        if not (is_unauthorized or isinstance(error, Malformed)):
            return False
        return self.count()

    def count(self) -> bool:
        """Count one; whether it was one too many."""
        now = self.clock()
        leaked = (now - self._at) * self.most / FORGOTTEN_AFTER_S
        self._level = max(0.0, self._level - leaked) + 1
        self._at = now
        return self._level > self.most
