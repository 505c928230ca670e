"""The reader of one connection: hands messages over in slices, and waits whenever the connection has to.

A loop turn does little for any one connection: a long message is worked off in slices, a run of short ones is
interrupted, and who owes for what is no send waits in line before the next slice. Nothing is left out or overtaken.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol

import attrs

from chatflow.adapters.websockets.connection import GatewayConnection, Receiver
from chatflow.adapters.websockets.inbox import Inbox
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.errors import POLICY
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.pacing import BYTE_S, FRAME_S
from chatflow.domain.session.violations import Violations
from chatflow.ports.socket import Socket

SLICE_ITEMS = 64
LOOK_EVERY = 16
TURN_S = 0.002
"""A reader lets the others go on after that time. The clock is looked at once in `LOOK_EVERY` messages."""


class Source(Protocol):
    """A connection, as its reader sees it."""

    inbox: Inbox
    loop: asyncio.AbstractEventLoop

    def attach(self, receiver: Receiver) -> None:
        """From now on messages are handled."""

    def detach(self) -> None:
        """Nobody handles them any more."""

    async def take_in(self) -> bool:
        """Take in what was read and did not fit, after the others; whether a message waits."""

    async def resumed(self) -> None:
        """Wait until more may be handled."""

    def is_ending(self) -> bool:
        """Whether it is closing, or has gone."""

    def turn_deaf(self) -> None:
        """Read nothing more."""


@attrs.define(eq=False)
class Nobody:
    """For connections whose peer has nothing to say: a word is dropped, many close the connection."""

    socket: Socket
    context: GatewayContext
    is_ended: bool = attrs.field(default=False, init=False)
    inflight: Inflight = attrs.field(init=False)
    _violations: Violations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.context)
        self._violations = Violations(self.context.clock, self.context.protocol_errors_max)

    def receive(self, frame: str | bytes, most: int = SLICE_ITEMS) -> int:
        """Drop it."""
        self.inflight.debt.charge(FRAME_S + len(frame) * BYTE_S)
        if not self.is_ended and self._violations.count():
            self.is_ended = True
            self.context.metrics.protocol_violators_dropped += 1
            self.socket.close(POLICY, "nothing is to be said here")
        return 0

    def go_on(self, most: int) -> int:
        """There is nothing left."""
        return 0

    def held_bytes(self) -> int:
        """Nothing."""
        return 0


async def read(connection: Source, receiver: Receiver) -> None:
    """Hand everything over until the connection has gone and nothing is left.

    What would have to wait in line while the connection ends is dropped: nobody is there any more to be answered.
    """
    connection.attach(receiver)
    try:
        await _read(connection, receiver)
    finally:
        connection.detach()


async def _read(connection: Source, receiver: Receiver) -> None:
    inflight, inbox = receiver.inflight, connection.inbox
    while True:
        if inbox.messages:
            await _hand_over(connection, receiver)
        elif await connection.take_in():
            continue
        elif inbox.is_over:
            return
        elif not inflight.is_stalled:
            await inbox.woken()
        if receiver.is_ended:
            connection.turn_deaf()
            return
        if inflight.is_stalled:
            if inflight.debt.is_due and connection.is_ending():
                connection.turn_deaf()
                return
            await connection.resumed()


async def _hand_over(connection: Source, receiver: Receiver) -> None:
    """Hand over what waits, unless there is a reason to stop."""
    inflight, messages, receive = receiver.inflight, connection.inbox.messages, receiver.receive
    clock = connection.loop.time
    count, began = 0, clock()
    while messages and not inflight.is_stalled:
        if receive(messages.popleft(), SLICE_ITEMS):
            await _work_off(connection, receiver)
        inflight.handled += 1
        if inflight.is_awaited:
            inflight.moved()
        count += 1
        if not count % LOOK_EVERY and clock() - began > TURN_S:
            await asyncio.sleep(0)
            began = clock()


async def _work_off(connection: Source, receiver: Receiver) -> None:
    """Handle the rest of a long message, slice by slice."""
    inflight = receiver.inflight
    while True:
        if not inflight.is_stalled:
            await asyncio.sleep(0)
        elif inflight.debt.is_due and connection.is_ending():
            return
        else:
            await connection.resumed()
        if not receiver.go_on(SLICE_ITEMS):
            return


if TYPE_CHECKING:

    def _check(connection: GatewayConnection) -> Source:
        return connection
