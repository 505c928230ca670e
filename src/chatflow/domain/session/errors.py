"""What a client is told: error codes, texts and close codes of both protocols.

ChatflowError
├── Denied              final: not allowed, with the code that the client gets
└── Refusal             retryable
    ├── OutOfTurn       an earlier message of the same sender has to come again first
    ├── NotSeenStored   accepted, but no commit was seen in time
    └── Superseded      a join that a later join or leave of its room replaced

| error | code |
|---|---|
| `Malformed` and other invalid input | ``malformed`` |
| `InvalidMessage` | ``invalid_message`` |
| `InvalidRoom` | ``invalid_room`` |
| `Denied` | its own: ``unauthorized`` or ``forbidden`` |
| `BufferFull`, `BrokerFull`, `StoreOverloaded` | ``busy`` |
| everything else | ``unavailable`` |
"""

from chatflow.domain.messages.errors import InvalidInput, InvalidMessage, InvalidRoom
from chatflow.ports.errors import BrokerFull, BufferFull, ChatflowError, Refusal, StoreError, StoreOverloaded

POLICY = 1008
TOO_BIG = 1009
RESTARTING = 1012
OVERLOADED = 1013
NO_HELLO = 4401
"""Close codes: a broken rule; a frame over the limit; a drain; the gateway, or a peer that reads too slowly; no valid
hello in time."""

QUEUE_UNAVAILABLE = "Message queue unavailable, please retry"


class OutOfTurn(Refusal):
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
