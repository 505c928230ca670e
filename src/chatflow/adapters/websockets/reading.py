"""The reader of one connection: hands messages over in slices, and waits whenever the connection has to.

A loop turn does little for any one connection: a long message is worked off in slices, a run of short ones is
interrupted, and who owes for what is no send waits in line before the next slice. Nothing is left out or overtaken.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol

from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.driver import SessionDriver
from chatflow.adapters.websockets.inbox import Inbox
from chatflow.domain.messages.errors import Malformed
from chatflow.domain.session.core import Session

SLICE_ITEMS = 64
LOOK_EVERY = 16
TURN_S = 0.002
"""A reader lets the others go on after that time. The clock is looked at once in `LOOK_EVERY` messages."""


class FrameSource(Protocol):
    """A connection, as its reader sees it."""

    inbox: Inbox
    loop: asyncio.AbstractEventLoop

    def attach(self, session: Session, backpressure: Backpressure) -> None:
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


async def read(connection: FrameSource, driver: SessionDriver) -> None:
    """Hand everything over until the connection has gone and nothing is left.

    What would have to wait in line while the connection ends is dropped: nobody is there any more to be answered.
    """
    connection.attach(driver.session, driver.backpressure)
    try:
        await _read(connection, driver)
    finally:
        connection.detach()


async def _read(connection: FrameSource, driver: SessionDriver) -> None:
    session, inbox = driver.session, connection.inbox
    inflight = session.inflight
    while True:
        if inbox.messages:
            await _hand_over(connection, driver)
        elif await connection.take_in():
            continue
        elif inbox.is_over:
            return
        elif not inflight.is_stalled:
            await inbox.woken()
        if session.is_ended:
            connection.turn_deaf()
            return
        if inflight.is_stalled:
            if inflight.debt.is_due and connection.is_ending():
                connection.turn_deaf()
                return
            await connection.resumed()


async def _hand_over(connection: FrameSource, driver: SessionDriver) -> None:
    """Hand over what waits, unless there is a reason to stop."""
    session, messages, decode = driver.session, connection.inbox.messages, driver.decode
    inflight, receive, effects = session.inflight, session.receive, session.effects
    clock = connection.loop.time
    count, began = 0, clock()
    while messages and not inflight.is_stalled:
        frame = messages.popleft()
        try:
            value = decode(frame)
        except Malformed:
            session.receive_malformed(len(frame))
        else:
            if receive(value, len(frame), SLICE_ITEMS):
                await _work_off(connection, driver)
        if effects:
            driver.perform()
            if session.is_ended:
                return
        inflight.handled += 1
        if inflight.is_awaited:
            inflight.moved()
        count += 1
        if not count % LOOK_EVERY and clock() - began > TURN_S:
            await asyncio.sleep(0)
            began = clock()


async def _work_off(connection: FrameSource, driver: SessionDriver) -> None:
    """Handle the rest of a long message, slice by slice."""
    session = driver.session
    inflight = session.inflight
    while True:
        driver.perform()
        if not inflight.is_stalled:
            await asyncio.sleep(0)
        elif inflight.debt.is_due and connection.is_ending():
            return
        else:
            await connection.resumed()
        if not session.go_on(SLICE_ITEMS):
            return


if TYPE_CHECKING:

    def _check(connection: GatewayConnection) -> FrameSource:
        return connection
