"""The brake on each sender: what it has under way, and when to stop reading from it."""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.pacing import Debt


@attrs.define(eq=False)
class Inflight:
    """What one connection has under way; at a limit, stop reading from it.

    A frame has *arrived* when it stands in the inbox, and is *handled* when its last item is: between the two it may
    wait, or be half worked off.

    Attributes:
        count: messages that are not settled, joins without an answer, and answers that are not written.
        held_bytes: of answers that wait for an earlier one; half of the outbound limit, so that releasing them all
            at once does not overflow a peer that reads.
        debt: for what is no send.
        has_answered: something that is no send was answered, and the answer may not be read yet.
        is_held: stopped because all connections together hold too much.
    """

    context: GatewayContext
    count: int = attrs.field(default=0, init=False)
    held_bytes: int = attrs.field(default=0, init=False)
    arrived: int = attrs.field(default=0, init=False)
    handled: int = attrs.field(default=0, init=False)
    is_awaited: bool = attrs.field(default=False, init=False)
    has_answered: bool = attrs.field(default=False, init=False)
    is_held: bool = attrs.field(default=False, init=False)
    debt: Debt = attrs.field(init=False)
    _stalled_s: float = attrs.field(default=0.0, init=False)
    _stalled_since: float | None = attrs.field(default=None, init=False)
    _settled: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.debt = Debt(self.context.pacer)

    @property
    def is_stalled(self) -> bool:
        """Whether to stop reading."""
        return self.debt.is_due or self._is_full or self.context.publisher.is_congested

    @property
    def _is_full(self) -> bool:
        context = self.context
        return (
            self.count >= context.inflight_per_connection
            or self.held_bytes * 2 >= context.outbound_limit_bytes
            or self.is_held
        )

    def charge_answer(self, cost_s: float) -> None:
        """Something that is no send was answered at once."""
        self.has_answered = True
        self.debt.charge(cost_s)

    async def resumed(self, drained: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Wait until reading may go on; so long `reading_time` stands still.

        Args:
            drained: waits until the peer has read most of what was sent, before more of no send is answered.
        """
        self._stalled_since = self.context.clock()
        try:
            if drained is not None and self.has_answered:
                self.has_answered = False
                await drained()
            while self.is_stalled:
                await (self.debt.paid() if self.debt.is_due else self._moved())
        finally:
            self._stalled_s += self.context.clock() - self._stalled_since
            self._stalled_since = None

    async def caught_up(self) -> None:
        """Wait until what arrived before this call has been handled."""
        goal = self.arrived
        while self.handled < goal:
            self.is_awaited = True
            await self._changed()
        while self._is_full or self.context.publisher.is_congested:
            await self._moved()
            await asyncio.sleep(0)  # the reader, woken in the same moment, goes on first

    async def _moved(self) -> None:
        if self._is_full:
            await self._changed()
        else:
            await self.context.publisher.uncongested()

    async def _changed(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    def reading_time(self) -> float:
        """Monotonic seconds without those in which the connection was not read from."""
        now = self.context.clock() if self._stalled_since is None else self._stalled_since
        return now - self._stalled_s

    def settle(self, count: int = 1) -> None:
        """So many have got their answer."""
        self.count -= count
        self._settled.set()

    def moved(self) -> None:
        """Something that somebody waits for has changed."""
        self.is_awaited = False
        self._settled.set()
