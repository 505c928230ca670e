"""``/feed/{room}``: its peer only listens. A frame is dropped, many close the connection."""

import sys
from collections.abc import Sequence
from typing import Any

import attrs

from chatflow.domain.session.access import Access
from chatflow.domain.session.core import Session
from chatflow.domain.session.effects import Follow
from chatflow.domain.session.errors import FORBIDDEN, OVERLOADED, POLICY, Denied
from chatflow.domain.session.pacing import BYTE_S, FRAME_S
from chatflow.domain.session.rates import Action
from chatflow.domain.session.sign_in import SignIn
from chatflow.domain.session.violations import Violations
from chatflow.ports.identity import Principal


@attrs.define(eq=False)
class SilentSession(Session):
    """A connection whose peer has nothing to say: it listens, or is turned away and has not gone yet."""

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
        self.rates.spend(Action.ERROR)
        if self._violations.count():
            self.end(POLICY, "nothing is to be said here")

    def take_answers(self) -> Sequence[Any]:
        """Nothing is ever answered."""
        return ()


@attrs.define(eq=False)
class FeedSession(SilentSession):
    """The state of one ``/feed/{room}`` connection."""

    room_id: str
    since: int | None
    sign_in: SignIn = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.sign_in = SignIn(self)
        if self.context.authenticator is None:
            self._follow()
        else:
            self.sign_in.ask_at_once(self._admit)

    def failed(self) -> None:
        """The room's history cannot be read, so nothing can follow it."""
        self.disconnect(OVERLOADED, "history unavailable, please retry")

    def _admit(self, principal: Principal) -> None:
        try:
            Access(principal).check_read(self.room_id)
        except Denied as exc:
            self.disconnect(FORBIDDEN, str(exc))
            raise
        self._follow()

    def _follow(self) -> None:
        self.effects.append(Follow(self.room_id, self.since))
