"""What the protocols have in common: a session without I/O.

Decoded frames and events go in. Out come answers, collected once per event-loop turn; effects, performed at once; and
echoes (`ResendGuard.take_echo`), asked for behind the answers. A session never waits, owns no task and knows no socket;
its shell (`chatflow.adapters.websockets.driver`) does, and reports what happened.

Where one sender's messages are kept in order and slowed down:

* `Inflight` counts what the connection has under way; while `Inflight.is_stalled` the shell stops reading, so TCP
  slows the sender down.
* `Inflight.debt` charges everything that is not a send, so that cheap nonsense cannot crowd out messages.
* `ResendGuard` refuses what would overtake a refused message, with `SenderOrder` for senders that repeat by id.
"""

import sys
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import attrs

from chatflow.domain.ingest.fairness import SenderShare
from chatflow.domain.session.access import Access
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.effects import Close, Effect
from chatflow.domain.session.errors import NotGranted
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.rates import RateLimits
from chatflow.domain.session.resend_guard import ResendGuard
from chatflow.ports.errors import ChatflowError


def _nobody() -> None:
    """No shell is attached yet."""


@attrs.define(eq=False)
class Session:
    """One connection.

    Attributes:
        wake: called when answers begin to wait; the shell then calls `take_answers` before the turn after next.
        effects: in order; the shell performs and removes them after each call into the session.
        is_ended: it has closed the connection and takes nothing more.
        token: came with the handshake.
        access: what the token allows; ``None`` where nobody needs one, or before it was accepted.
        is_waiting: a token is being looked at; no frame is handled before the answer.
    """

    context: GatewayContext
    client_ip: str
    token: str | None = attrs.field(default=None, kw_only=True, repr=False)
    access: Access | None = attrs.field(default=None, init=False)
    is_waiting: bool = attrs.field(default=False, init=False)
    wake: Callable[[], object] = attrs.field(default=_nobody, init=False)
    effects: list[Effect] = attrs.field(factory=list, init=False)
    is_ended: bool = attrs.field(default=False, init=False)
    inflight: Inflight = attrs.field(init=False)
    share: SenderShare = attrs.field(init=False)
    rates: RateLimits = attrs.field(init=False)
    guard: ResendGuard = attrs.field(init=False)
    arrivals: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.context)
        self.share = self.inflight.share
        self.rates = self.context.rates.connection(self.client_ip, self.inflight.debt)
        self.guard = ResendGuard(self.inflight.reading_time, self.effects)

    @abstractmethod
    def receive(self, value: Any, size: int, most: int = sys.maxsize) -> int:
        """Handle a decoded frame of ``size`` characters, or its first ``most`` items; how many are left."""

    @abstractmethod
    def receive_malformed(self, size: int) -> None:
        """Handle a frame that cannot be decoded."""

    def go_on(self, most: int) -> int:
        """Handle that many more items of the last frame; how many are left."""
        return 0

    @property
    def writer(self) -> Hashable:
        """Whose quota a message counts against: the user's if it is proven, else this connection's."""
        return self if self.access is None else self.access.principal.user_id

    def held_bytes(self) -> int:
        """About what it keeps in memory."""
        return self.inflight.held_bytes

    @abstractmethod
    def take_answers(self) -> Sequence[Any]:
        """The answers that are ready, in order; they count as written."""

    def closed(self) -> None:
        """The connection has gone. What was offered stays offered."""
        self.context.roster.leave(self)

    def note_denial(self, error: ChatflowError) -> None:
        """Count what the token did not allow, and put it on record."""
        if isinstance(error, NotGranted) and self.access is not None:
            self.context.metrics.not_granted += 1
            if (trail := self.context.audit_trail) is not None:
                user_id, room = self.access.principal.user_id, error.room_id
                trail.denied("forbidden", self.client_ip, operation=error.operation, user_id=user_id, room=room)

    def disconnect(self, code: int, reason: str) -> None:
        """Close, for nothing that the peer's frames did wrong, and handle nothing that still comes; idempotent."""
        if not self.is_ended:
            self.is_ended = True
            self.effects.append(Close(code, reason))
            self.wake()

    def end(self, code: int, reason: str) -> None:
        """Close for a broken protocol, and handle nothing that still comes."""
        if not self.is_ended:
            self.is_ended = True
            self.context.metrics.protocol_violators_dropped += 1
            self.effects.append(Close(code, reason))
