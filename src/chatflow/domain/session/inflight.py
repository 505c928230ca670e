"""The brake on each sender: what it has under way, and when to stop reading from it."""

from collections.abc import Callable

import attrs

from chatflow.domain.ingest.fairness import SenderShare
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.pacing import Debt

HEAVY_INFLIGHT = 128
"""Messages under way of a connection that sends much, while others send little."""


def _nobody() -> None:
    """Nobody waits."""


@attrs.define(eq=False)
class Inflight:
    """What one connection has under way; at a limit, stop reading from it.

    A frame has *arrived* when it stands in the inbox, and is *handled* when its last item is: between the two it may
    wait, or be handled in part.

    Attributes:
        count: messages that are not settled, joins without an answer, and answers that are not written.
        held_bytes: of answers that wait for an earlier one; half of the outbound limit, so that releasing them all
            at once does not overflow a peer that reads.
        debt: for everything that is not a send.
        share: for sends.
        has_answered: something that is not a send was answered, and the answer may not be read yet.
        is_held: reading has stopped because all connections together hold too much.
        notify: called when something has changed that somebody may wait for.
    """

    context: GatewayContext
    notify: Callable[[], object] = attrs.field(default=_nobody, init=False)
    count: int = attrs.field(default=0, init=False)
    held_bytes: int = attrs.field(default=0, init=False)
    arrived: int = attrs.field(default=0, init=False)
    handled: int = attrs.field(default=0, init=False)
    is_awaited: bool = attrs.field(default=False, init=False)
    has_answered: bool = attrs.field(default=False, init=False)
    is_held: bool = attrs.field(default=False, init=False)
    debt: Debt = attrs.field(init=False)
    share: SenderShare = attrs.field(factory=SenderShare, init=False)
    _stalled_s: float = attrs.field(default=0.0, init=False)
    _stalled_since: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.debt = Debt(self.context.pacer)

    @property
    def is_stalled(self) -> bool:
        """Whether to stop reading."""
        return self.debt.is_due or self.is_full or self.context.publisher.is_congested(self.share)

    @property
    def is_full(self) -> bool:
        """Whether this connection alone is at a limit, whatever it owes."""
        context, count = self.context, self.count
        return (
            count >= context.inflight_per_connection
            or (count >= HEAVY_INFLIGHT and self.share.is_heavy and context.publisher.serves_light)
            or self.held_bytes * 2 >= context.outbound_limit_bytes
            or self.is_held
        )

    @property
    def is_greedy(self) -> bool:
        """Whether this connection sends much while others send little: it is to be read in turns."""
        return self.share.is_heavy and self.context.publisher.serves_light

    @property
    def is_backed_up(self) -> bool:
        """Whether a reader that has stopped should wait for more than one answer: it then reads many at once."""
        count = self.count
        if self.is_greedy:
            return count > HEAVY_INFLIGHT // 2
        return count > self.context.inflight_per_connection // 2

    def charge_answer(self, cost_s: float) -> None:
        """Something that is not a send was answered at once."""
        self.has_answered = True
        self.debt.charge(cost_s)

    def stop_reading(self) -> None:
        """The shell stops reading: `reading_time` stands still until `resume_reading`."""
        self._stalled_since = self.context.clock()

    def resume_reading(self) -> None:
        """The shell reads on."""
        if self._stalled_since is not None:
            self._stalled_s += self.context.clock() - self._stalled_since
            self._stalled_since = None

    def reading_time(self) -> float:
        """Monotonic seconds without those in which the connection was not read from."""
        now = self.context.clock() if self._stalled_since is None else self._stalled_since
        return now - self._stalled_s

    def settle(self, count: int = 1) -> None:
        """So many have got their answer."""
        self.count -= count
        self.notify()

    def moved(self) -> None:
        """Something that somebody waits for has changed."""
        self.is_awaited = False
        self.notify()
