"""What the connections of one gateway share, what they tell a client of an error, and the brake on each sender."""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.publisher import Acceptor
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.errors import InvalidInput, InvalidMessage, InvalidRoom
from chatflow.domain.messages.validation import Limits, Stamps
from chatflow.domain.session.memory_budget import MemoryBudget
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import Debt, Pacer
from chatflow.ports.clock import Clock
from chatflow.ports.errors import BrokerFull, BufferFull, ChatflowError, Refusal, StoreError, StoreOverloaded

POLICY = 1008
QUEUE_UNAVAILABLE = "Message queue unavailable, please retry"


class Fenced(Refusal):
    """Refused so that it cannot overtake an earlier message of its sender."""


class NotSeenStored(Refusal):
    """Accepted, but nobody has seen it committed in time; repeating it with its id is safe."""


class Superseded(Refusal):
    """A join that a later join or leave of the same room came before."""


class Denied(ChatflowError):
    """Refused for who asks or what for, with the code that the client gets."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


@attrs.frozen(eq=False)
class Gate:
    """One gateway's services and settings.

    Attributes:
        protocol_errors_max: of one ``/ws`` connection; more close it, unless they are spread over minutes.
        connection_memory_bytes: what all connections together may hold before the largest is paused, then closed.
    """

    acceptor: Acceptor
    hub: RoomHub
    stored_acks: StoredAcks
    metrics: SessionMetrics
    limits: Limits
    stamps: Stamps
    clock: Clock
    heartbeat_s: float = 25
    hello_timeout_s: float = 10
    rooms_per_connection: int = 500
    inflight_per_connection: int = 1_024
    outbound_limit_bytes: int = 2**20
    protocol_errors_max: int = 128
    connection_memory_bytes: int = 64 * 2**20
    pacer: Pacer = attrs.field(init=False)
    memory: MemoryBudget = attrs.field(init=False)

    @pacer.default
    def _new_pacer(self) -> Pacer:
        return Pacer(self.clock)

    @memory.default
    def _new_memory(self) -> MemoryBudget:
        return MemoryBudget(self.connection_memory_bytes, self.metrics, self.clock)


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

    gate: Gate
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
        self.debt = Debt(self.gate.pacer)

    @property
    def is_stalled(self) -> bool:
        """Whether to stop reading."""
        return self.debt.is_due or self._is_full or self.gate.acceptor.is_congested

    @property
    def _is_full(self) -> bool:
        gate = self.gate
        return (
            self.count >= gate.inflight_per_connection
            or self.held_bytes * 2 >= gate.outbound_limit_bytes
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
        self._stalled_since = self.gate.clock()
        try:
            if drained is not None and self.has_answered:
                self.has_answered = False
                await drained()
            while self.is_stalled:
                await (self.debt.paid() if self.debt.is_due else self._moved())
        finally:
            self._stalled_s += self.gate.clock() - self._stalled_since
            self._stalled_since = None

    async def caught_up(self) -> None:
        """Wait until what arrived before this call has been handled."""
        goal = self.arrived
        while self.handled < goal:
            self.is_awaited = True
            await self._changed()
        while self._is_full or self.gate.acceptor.is_congested:
            await self._moved()
            await asyncio.sleep(0)  # the reader, woken in the same moment, goes on first

    async def _moved(self) -> None:
        if self._is_full:
            await self._changed()
        else:
            await self.gate.acceptor.uncongested()

    async def _changed(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    def reading_time(self) -> float:
        """Monotonic seconds without those in which the connection was not read from."""
        now = self.gate.clock() if self._stalled_since is None else self._stalled_since
        return now - self._stalled_s

    def settle(self, count: int = 1) -> None:
        """So many have got their answer."""
        self.count -= count
        self._settled.set()

    def moved(self) -> None:
        """Something that somebody waits for has changed."""
        self.is_awaited = False
        self._settled.set()


def error_code(error: ChatflowError) -> str:
    """The wire's word for an error."""
    match error:
        case Denied(code=code):
            return code
        case InvalidMessage():
            return "invalid_message"
        case InvalidRoom():
            return "invalid_room"
        case InvalidInput():
            return "malformed"
        case BufferFull() | BrokerFull() | StoreOverloaded():
            return "busy"
    return "unavailable"


def error_text(error: ChatflowError) -> str:
    """What a client may read: its own mistakes in full, of ours only what to do."""
    match error:
        case InvalidInput() | Denied():
            return str(error)
        case BufferFull() | BrokerFull() | StoreOverloaded():
            return "Too busy, please retry"
        case Superseded():
            return "Superseded by a later join or leave of this room"
        case NotSeenStored():
            return "Not seen stored yet, please retry with the same id"
        case StoreError():
            return "History unavailable, please retry"
    return QUEUE_UNAVAILABLE
