"""One connection of the gateway: parses what it reads in small pieces, and stops reading when it has to."""

import asyncio
from typing import Any

import structlog
from websockets.frames import Frame

from chatflow.adapters.websockets.arriving import ArrivingConnection
from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.inbox import Inbox, Unreadable
from chatflow.adapters.websockets.sockets import SocketOwner, WebSocketSocket
from chatflow.adapters.websockets.turns import OnePerTurn
from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import OVERLOADED
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.memory_budget import SMALL_BYTES, MemoryBudget
from chatflow.domain.session.pacing import CONTROL_S

END_GRACE_S = 1.0
PIECE_BYTES = 16_384
WARY_PIECE_BYTES = 256
"""The most that is parsed at once, of a trusted connection and of any other: 85 messages of 190 bytes, which then share
envelopes and acks, or 36 frames of one byte."""

WARY_FRAMES = 16
"""With this many waiting, an untrusted connection is parsed no further while somebody waits in line."""

TRUSTED_AFTER = 64
"""Messages, if it has not owed lately."""

BYTES_PER_MESSAGE = 64
"""Each handled message earns a trusted connection this much, so that trust costs as much as its abuse gains."""


log = structlog.get_logger()


class GatewayConnection(ArrivingConnection, SocketOwner):
    """One connection: bytes that were read wait here until the inbox has room for them.

    The library parses a whole read at once: 40,000 frames if they are small. Here it gets pieces; while bytes are left,
    or the connection owes or is held, the transport reads nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard_at = self.loop.time()
        self.pinged_at = self.heard_at
        self.socket = WebSocketSocket(self)
        self.inbox = Inbox()
        self.is_stopped = False
        self.memory: MemoryBudget | None = None
        self.turns: OnePerTurn | None = None
        self._session: Session | None = None
        self._inflight: Inflight | None = None
        self._backpressure: Backpressure | None = None
        self._ahead = bytearray()
        self._hears = False
        self._is_deaf = False
        self._is_trusted = False

    def attach(self, session: Session, backpressure: Backpressure) -> None:
        """From now on messages are handled."""
        self._session, self._inflight, self._backpressure = session, session.inflight, backpressure
        session.inflight.arrived = len(self.inbox.messages)

    def detach(self) -> None:
        """From now on nobody handles messages."""
        self._session = None

    def is_ending(self) -> bool:
        """Whether nothing that is sent now reaches the peer."""
        return self.inbox.is_over or not self.socket.is_open()

    def turn_deaf(self) -> None:
        """Read nothing more, not even the answer to a close: the connection is cut when the grace for it has passed."""
        self._is_deaf, self._hears = True, False
        self._ahead.clear()
        self.inbox.messages.clear()
        if not self.inbox.is_over:
            self.inbox.end()
            self._control_reading()
            self.socket.abort_after(END_GRACE_S)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop; see `DirectPeer.parse`."""
        self.heard_at = self.loop.time()
        if not self._hears:
            self._arrive(data)
            return
        if not self._ahead and len(data) <= self._piece_bytes():
            self.parse(data)
            self._control_reading()
        else:
            self._ahead += data
            if self._is_trusted or self._session is None:
                self._feed()
            else:
                self.inbox.wake()  # the reader takes it in when it is its turn
                self._control_reading()
        # The library answers pings by itself, even while closing and whether or not the pongs are read.
        self.socket.limit_outbound()

    async def take_in(self) -> bool:
        """Parse as much as there is room for, in turn with the others; whether a message waits."""
        if self._ahead and self._inflight is not None:
            await (self.turns.pass_through() if self.turns is not None and self._is_watched() else asyncio.sleep(0))
        self._feed()
        return bool(self.inbox.messages)

    def _feed(self) -> None:
        inbox, inflight = self.inbox, self._inflight
        if not inbox.messages:
            inbox.taken_bytes = 0
        if self._ahead:
            self._is_trusted = (
                inflight is not None and inflight.handled >= TRUSTED_AFTER and not inflight.debt.is_wary()
            )
            size = self._piece_bytes()
            while self._ahead and self._has_room():
                piece = bytes(self._ahead[:size])
                del self._ahead[:size]
                self.parse(piece)
        self._control_reading()

    def _arrive(self, data: bytes) -> None:
        """Until the request is whole; what comes with it waits until the handshake is done."""
        if self.is_arriving and (rest := self.take_head(data)) is not None:
            self._hears = True
            self._ahead += rest
            self._control_reading()

    def _is_watched(self) -> bool:
        """Whether it is untrusted while others wait in line; otherwise newcomers send in step and share envelopes."""
        return self._inflight is not None and not self._is_trusted and self._inflight.context.pacer.is_busy

    def _piece_bytes(self) -> int:
        if self._inflight is None or not self._is_trusted:
            return WARY_PIECE_BYTES
        return min(PIECE_BYTES, BYTES_PER_MESSAGE * self._inflight.handled)

    def data_frame(self, frame: Frame) -> None:
        """See `DirectPeer.data_frame`."""
        if self.inbox.is_over:
            self._charge(CONTROL_S)
            return
        self.inbox.taken_bytes += len(frame.data)
        try:
            is_whole = self.inbox.put(frame)
        except Unreadable as exc:
            self.inbox.end()
            self.socket.close(exc.code, str(exc))
            return
        if not is_whole:
            self._charge(CONTROL_S)
        elif self._inflight is not None:
            self._inflight.arrived += 1

    def control_frame(self) -> None:
        """See `DirectPeer.control_frame`."""
        self._charge(CONTROL_S)

    async def resumed(self) -> None:
        """Wait until more may be handled."""
        assert self._backpressure is not None  # noqa: S101  # only its reader waits
        self._control_reading()
        self.note()
        await self._backpressure.resumed(self.socket.drained)
        self.note()

    def owes(self) -> bool:
        """Whether it is not read from for what it has asked for."""
        return self._inflight is not None and self._inflight.debt.is_due

    def note(self) -> None:
        """Tell the memory budget what this connection holds."""
        if self.memory is None:
            return
        if not self.socket.is_open():
            self.memory.forget(self)
            return
        held = 0 if self._session is None else self._session.held_bytes()
        ahead = len(self._ahead) + self.inbox.taken_bytes
        unsent = self.unsent_bytes()
        size = unsent + ahead + held
        if unsent:
            size += self.kernel_bytes()  # it is full
        self.socket.is_noted = size >= SMALL_BYTES
        self.memory.note(self, size)

    def hold(self) -> None:
        """See `Holder.hold`."""
        self._set_held(True)

    def release(self) -> None:
        """See `Holder.release`."""
        self._set_held(False)

    def overrun(self, held_bytes: int) -> None:
        """See `Holder.overrun`."""
        log.warning("gateway.memory_holder_dropped", connection=str(self.id), held_bytes=held_bytes)
        self.socket.close(OVERLOADED, "the gateway holds too much for its connections", END_GRACE_S)

    def writing_resumed(self) -> None:
        """See `DirectPeer.writing_resumed`."""
        self.socket.writable.set()
        self._control_reading()
        self.note()

    def writing_paused(self) -> None:
        """See `DirectPeer.writing_paused`."""
        self.socket.writable.clear()

    def lost(self) -> None:
        """See `DirectPeer.lost`."""
        self._ahead.clear()
        self.inbox.end()
        self.socket.gone()
        self._set_held(False)
        if self.memory is not None:
            self.memory.forget(self)

    def _charge(self, cost_s: float) -> None:
        if (inflight := self._inflight) is not None:
            inflight.debt.charge(cost_s)
            if inflight.debt.is_due:
                self.inbox.wake()

    def _has_room(self) -> bool:
        if self._inflight is None:
            return self.request is None  # what comes with the handshake waits until it is done
        if len(self.inbox.messages) >= WARY_FRAMES and self._is_watched():
            return False
        return not (self.inbox.is_full or self._inflight.debt.is_due or self._inflight.is_held)

    def _set_held(self, is_held: bool) -> None:
        if (inflight := self._inflight) is not None and inflight.is_held != is_held:
            inflight.is_held = is_held
            inflight.moved()
            self._control_reading()

    def _control_reading(self) -> None:
        """Read from the transport while there is room for what comes."""
        inflight = self._inflight
        if inflight is not None and inflight.debt.is_due:
            self._is_trusted = False
        stop = (
            bool(self._ahead)
            or self._is_deaf
            or self.inbox.is_full
            or (inflight is None and len(self._ahead) > PIECE_BYTES)
            or (inflight is not None and (inflight.debt.is_due or inflight.is_held))
            or (self.socket.overflowed and self.is_writing_paused())
        )
        if stop:
            self.inbox.wake()  # whoever owes is to pay, even if no message is whole yet
        if stop != self.is_stopped:
            self.is_stopped = stop
            self.listen(not stop)
