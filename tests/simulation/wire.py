"""One WebSocket connection in virtual time: both directions in order, each with its own latency, until it is cut."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import msgspec

from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.inbox import Inbox
from chatflow.domain.session.core import Session
from chatflow.domain.session.inflight import Inflight
from chatflow.ports.messages import MessageKey
from chatflow.ports.socket import Socket
from tests.simulation.faults import ClientPlan, Dice
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.verdict import Verdict

TOO_SLOW = 1013
ABNORMAL = 1006
CLOSE_GRACE_S = 5.0
DROPPED_SEND_BYTES = 65_536
"""Room for the one send that passes the limit, which is what the limit cannot prevent."""

REPEAT_WITHIN_S = 2.0
"""How long a gateway keeps a place for a refused message that may come again with its id."""
FENCE_LIMIT_S = 1.0
"""How long at most it refuses what follows one that may not."""

Send = tuple[str, int]
"""A send's room, and its number among what its client writes there."""

decode = msgspec.json.Decoder().decode


class Peer(Protocol):
    """The client's end."""

    def received(self, connection: "Connection", items: list[dict[str, Any]]) -> None:
        """Frames were read."""

    def send_of(self, item: dict[str, Any]) -> Send | None:
        """The send that this refuses."""

    @property
    def user_id(self) -> int:
        """Who writes."""

    @property
    def plan(self) -> ClientPlan:
        """What kind of client it is."""

    def room_of(self, item: dict[str, Any]) -> str:
        """The room of the send that this acks."""

    def forfeits(self, room: str) -> None:
        """A refused message came again later than a gateway need wait."""

    def disconnected(self, connection: "Connection", code: int) -> None:
        """The connection has ended; nothing follows."""


@attrs.define(eq=False)
class _Refusal:
    """Of one send, until it is taken in again. ``read_at`` is when the client's library had it."""

    read_at: float = math.inf


@attrs.frozen(eq=False)
class _Frame:
    text: str
    send: Send | None
    written_at: float
    arrived_at: float = math.inf


@attrs.define(eq=False)
class Connection:
    """A ``Socket`` for the gateway, a ``FrameSource`` for its reader, and the client's three verbs.

    Attributes:
        confirmed: keys of the messages that the gateway has a confirm for.
        limit_bytes: of what the client has not read.
        is_reading: false while the client is too slow.
    """

    loop: SimulationLoop
    process: Process
    peer: Peer
    verdict: Verdict
    dice: Dice
    confirmed: set[MessageKey]
    limit_bytes: int
    is_reading: bool = True
    outbound_bytes: int = 0
    _is_open: bool = True
    _is_cut: bool = False
    _has_ended: bool = False
    _outbound: deque[tuple[int, Callable[[], None]]] = attrs.field(factory=deque)
    _readable: int = 0
    _out_at: float = 0.0
    _inbound: deque[_Frame] = attrs.field(factory=deque)
    _refusals: dict[Send, _Refusal] = attrs.field(factory=dict)
    _refusing_since: dict[str, float] = attrs.field(factory=dict)
    _in_at: float = 0.0
    inbox: Inbox = attrs.field(factory=Inbox)
    _inflight: Inflight | None = None
    _backpressure: Backpressure | None = None
    _writable: asyncio.Event = attrs.field(factory=asyncio.Event)
    _pings: list[asyncio.Future[bool]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.inbox.messages = _Unhandled(self.takes)

    # The gateway's end.

    def send(self, frames: Sequence[bytes]) -> None:
        if not self._is_open:
            return
        values = [decode(frame) for frame in frames]
        items = [item for value in values for item in (value if type(value) is list else (value,))]
        self._judge(items)
        self._push(sum(map(len, frames)), lambda: self._receive(items))
        if self.outbound_bytes > self.limit_bytes:
            self.close(TOO_SLOW, "too slow a reader")

    def close(self, code: int, reason: str) -> None:
        if self._is_open:
            self._is_open = False
            self._writable.set()
            self._push(0, lambda: self._close_read(code))
            self.loop.after(CLOSE_GRACE_S, self.cut)

    async def drained(self) -> bool:
        while self._is_open and self.outbound_bytes * 2 > self.limit_bytes:
            self._writable.clear()
            await self._writable.wait()
        return self._is_open

    async def echoed(self) -> bool:
        if not self._is_open:
            return False
        pong = self.loop.create_future()
        self._pings.append(pong)
        self._push(0, lambda: self._to_gateway(self._pong, pong))
        return await pong

    def is_open(self) -> bool:
        return self._is_open

    def attach(self, session: Session, backpressure: Backpressure) -> None:
        self._inflight, self._backpressure = session.inflight, backpressure
        session.inflight.arrived = len(self.inbox.messages)

    def detach(self) -> None:
        pass

    async def take_in(self) -> bool:
        return bool(self.inbox.messages)

    async def resumed(self) -> None:
        assert self._backpressure is not None
        await self._backpressure.resumed(self.drained)

    def is_ending(self) -> bool:
        return not self._is_open

    def turn_deaf(self) -> None:
        self.inbox.end()

    def takes(self) -> None:
        """The gateway takes the next frame in."""
        frame = self._inbound.popleft()
        if frame.send is not None and self._refusals:
            self._took(frame, frame.send)

    # The client's end.

    def write(self, frame: str, send: Send | None) -> None:
        self._to_gateway(self._arrive, _Frame(frame, send, self.loop.time()))

    def leave(self) -> None:
        """Close in order: what was written before still arrives."""
        self._end(ABNORMAL)
        self._to_gateway(self._eof)

    def read_on(self) -> None:
        self.is_reading = True
        self._read()

    # The network.

    def cut(self) -> None:
        """What is on its way is lost; each end hears of it in its own time."""
        if not self._is_cut:
            self._is_cut = True
            self.loop.after(self.dice.latency(), self._eof)
            self.loop.after(self.dice.latency(), self._end, ABNORMAL)

    def _push(self, size: int, read: Callable[[], object]) -> None:
        self._outbound.append((size, read))
        self.outbound_bytes += size
        self._out_at = max(self._out_at, self.loop.time() + self.dice.latency())
        self.loop.call_at(self._out_at, self._flow, context=self.loop.world.context)

    def _flow(self) -> None:
        if not self._is_cut:
            self._readable += 1
            self._read()

    def _read(self) -> None:
        while self.is_reading and self._readable and not self._has_ended:
            self._readable -= 1
            size, read = self._outbound.popleft()
            self.outbound_bytes -= size
            self._writable.set()
            read()

    def _to_gateway(self, arrive: Callable[..., None], *args: object) -> None:
        self._in_at = max(self._in_at, self.loop.time() + self.dice.latency())
        self.loop.call_at(self._in_at, self._unless_cut, arrive, *args, context=self.loop.world.context)

    def _unless_cut(self, arrive: Callable[..., None], *args: object) -> None:
        if not self._is_cut:
            arrive(*args)

    def _took(self, frame: _Frame, send: Send) -> None:
        """Is the order of its room still promised, now that the gateway takes this one in?"""
        self._refusals.pop(send, None)
        for (room, _), refusal in self._refusals.items():
            if room == send[0] and self._is_late(frame, room, refusal):
                self.peer.forfeits(room)

    def _is_late(self, frame: _Frame, room: str, refusal: _Refusal) -> bool:
        """Whether the gateway need not hold this one up for the refused one any more."""
        if not self.peer.plan.has_ids:
            was_unaware = frame.written_at <= refusal.read_at
            now = self.loop.time()
            return was_unaware and now - self._refusing_since.get(room, now) >= FENCE_LIMIT_S
        was_frozen = frame.arrived_at <= self.process.thawed_at and not self.peer.plan.is_patient
        return was_frozen or frame.arrived_at - refusal.read_at >= REPEAT_WITHIN_S

    def _arrive(self, frame: _Frame) -> None:
        self._inbound.append(attrs.evolve(frame, arrived_at=self.loop.time()))
        self.inbox.messages.append(frame.text)
        self.inbox.wake()
        if self._inflight is not None:
            self._inflight.arrived += 1

    def _pong(self, pong: asyncio.Future[bool]) -> None:
        if not pong.done():
            pong.set_result(self._is_open)

    def _eof(self) -> None:
        """The gateway hears that the client has gone."""
        self._is_cut, self._is_open = True, False
        self._writable.set()
        for pong in self._pings:
            if not pong.done():
                pong.set_result(False)
        self.inbox.end()

    def _close_read(self, code: int) -> None:
        self._to_gateway(self._eof)
        self._end(code)

    def _end(self, code: int) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.peer.disconnected(self, code)

    def _receive(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            if refusal := self._refusals.get(self.peer.send_of(item) or ("", 0)):
                refusal.read_at = min(refusal.read_at, self.loop.time())
        self.peer.received(self, items)

    def _judge(self, items: list[dict[str, Any]]) -> None:
        bound = self.limit_bytes + DROPPED_SEND_BYTES
        self.verdict.check(self.outbound_bytes <= bound, f"{self.outbound_bytes} bytes wait for a slow reader")
        for item in items:
            if item.get("op") == "ack" or item.get("status") == "success":
                self.verdict.on_client_ack(item, self.peer.user_id, self.confirmed)
                self._refusing_since.pop(self.peer.room_of(item), None)
            elif (send := self.peer.send_of(item)) is not None:
                self._refusals[send] = _Refusal()
                self._refusing_since.setdefault(send[0], self.loop.time())


class _Unhandled(deque[str | bytes]):
    """Frames that wait for the gateway's reader, with an eye on the order in which it takes them."""

    def __init__(self, takes: Callable[[], None]) -> None:
        super().__init__()
        self.takes = takes

    def popleft(self) -> str | bytes:
        self.takes()
        return super().popleft()


if TYPE_CHECKING:
    _socket: type[Socket] = Connection
