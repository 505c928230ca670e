"""What the connections of one gateway share, what they tell a client of an error, and the brake on each sender."""

import asyncio

import attrs

from chatflow.domain.accepting import Acceptor
from chatflow.domain.delivering import RoomHub
from chatflow.domain.figures import GatewayFigures
from chatflow.domain.invalid import InvalidInput, InvalidMessage, InvalidRoom
from chatflow.domain.stored_acks import StoredAcks
from chatflow.domain.validation import Limits, Stamps
from chatflow.ports.clock import Clock
from chatflow.ports.errors import BrokerFull, BufferFull, ChatflowError, Refusal, StoreError, StoreOverloaded

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
    """One gateway's services and settings."""

    acceptor: Acceptor
    hub: RoomHub
    stored_acks: StoredAcks
    figures: GatewayFigures
    limits: Limits
    stamps: Stamps
    clock: Clock
    heartbeat_s: float = 25
    hello_timeout_s: float = 10
    rooms_per_connection: int = 500
    inflight_per_connection: int = 1_024
    outbound_limit_bytes: int = 2**20


@attrs.define(eq=False)
class Inflight:
    """What one connection has under way; at a limit, stop reading from it.

    Attributes:
        count: messages that are not settled.
        held_bytes: of answers that wait for an earlier one; half of the outbound limit, so that releasing them all
            at once does not overflow a peer that reads.
    """

    gate: Gate
    count: int = attrs.field(default=0, init=False)
    held_bytes: int = attrs.field(default=0, init=False)
    _stalled_s: float = attrs.field(default=0.0, init=False)
    _settled: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    @property
    def is_stalled(self) -> bool:
        """Whether to stop reading."""
        return self._is_full or self.gate.acceptor.is_congested

    @property
    def _is_full(self) -> bool:
        gate = self.gate
        return self.count >= gate.inflight_per_connection or self.held_bytes * 2 >= gate.outbound_limit_bytes

    async def resumed(self) -> None:
        """Wait until reading may go on; so long `reading_time` stands still."""
        since = self.gate.clock()
        while self.is_stalled:
            await self._moved()
        self._stalled_s += self.gate.clock() - since

    async def caught_up(self) -> None:
        """Wait until what arrived before this call has been handled."""
        while self.is_stalled:
            await self._moved()
            await asyncio.sleep(0)  # the reader, woken in the same moment, goes on first

    async def _moved(self) -> None:
        if self._is_full:
            self._settled.clear()
            await self._settled.wait()
        else:
            await self.gate.acceptor.uncongested()

    def reading_time(self) -> float:
        """Monotonic seconds without those in which the connection was not read from."""
        return self.gate.clock() - self._stalled_s

    def settle(self) -> None:
        """One message has got its answer."""
        self.count -= 1
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
