"""``/feed/{room}``: its peer only listens. A frame is dropped, many close the connection."""

import sys
from collections.abc import Sequence
from typing import Any

import attrs

from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import POLICY
from chatflow.domain.session.pacing import BYTE_S, FRAME_S
from chatflow.domain.session.violations import Violations


@attrs.define(eq=False)
class FeedSession(Session):
    """A connection whose peer has nothing to say; also one that is turned away and has not gone yet."""

    _violations: Violations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._violations = Violations(self.context.clock, self.context.protocol_errors_max)

    def receive(self, value: Any, size: int, most: int = sys.maxsize) -> int:
        """Drop it."""
        self.receive_malformed(size)
        return 0

    def receive_malformed(self, size: int) -> None:
        """Drop it."""
        self.inflight.debt.charge(FRAME_S + size * BYTE_S)
        if self._violations.count():
            self.end(POLICY, "nothing is to be said here")

    def take_answers(self) -> Sequence[Any]:
        """Nothing is ever answered."""
        return ()
