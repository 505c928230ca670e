"""What a client is told: error codes, texts and close codes of both protocols.

ChatflowError
├── Denied              final: not allowed, with the code that the client gets
│   └── NotGranted      the token does not allow it
└── Refusal             retryable
    ├── OutOfTurn       an earlier message of the same sender has to come again first
    ├── NotSeenStored   accepted, but no commit was seen in time
    └── Superseded      a join that a later join or leave of its room replaced

| error | code |
|---|---|
| `Malformed` and other invalid input | ``malformed`` |
| `InvalidMessage` | ``invalid_message`` |
| `InvalidRoom` | ``invalid_room`` |
| `Conflict` | ``conflict`` |
| `Denied` | its own: ``unauthorized`` or ``forbidden`` |
| `TokenRefused` | ``unauthorized`` |
| `BufferFull`, `BrokerFull`, `StoreOverloaded` | ``busy`` |
| everything else | ``unavailable`` |
"""

from types import UnionType

from chatflow.domain.identity.faults import why_refused
from chatflow.domain.messages.errors import Conflict, InvalidInput, InvalidMessage, InvalidRoom
from chatflow.ports.errors import (
    BrokerFull,
    BufferFull,
    ChatflowError,
    IdentityUnavailable,
    Refusal,
    StoreError,
    StoreOverloaded,
    TokenRefused,
)

POLICY = 1008
TOO_BIG = 1009
RESTARTING = 1012
OVERLOADED = 1013
NO_HELLO = 4401
FORBIDDEN = 4403
"""Close codes: a broken rule; a frame over the limit; a drain; the gateway, or a peer that reads too slowly; no valid
hello or token to begin with; a token that has ended, or that does not allow this room."""

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


class NotGranted(Denied):
    """The token allows no such thing.

    Attributes:
        operation: ``join``, ``send``, or ``sign_in`` for another user than the token's.
        room_id: in which room, "" for none.
    """

    def __init__(self, operation: str, text: str, room_id: str = "") -> None:
        self.operation = operation
        self.room_id = room_id
        super().__init__("forbidden", text)


_CODES: tuple[tuple[type[ChatflowError] | UnionType, str], ...] = (
    (TokenRefused, "unauthorized"),
    (InvalidMessage, "invalid_message"),
    (InvalidRoom, "invalid_room"),
    (Conflict, "conflict"),
    (InvalidInput, "malformed"),
    (BufferFull | BrokerFull | StoreOverloaded, "busy"),
)

_TEXTS: tuple[tuple[type[ChatflowError] | UnionType, str], ...] = (
    (IdentityUnavailable, "Tokens cannot be checked now, please retry"),
    (BufferFull | BrokerFull | StoreOverloaded, "Too busy, please retry"),
    (Superseded, "Superseded by a later join or leave of this room"),
    (NotSeenStored, "Not seen stored yet, please retry with the same id"),
    (StoreError, "History unavailable, please retry"),
)


def error_code(error: ChatflowError) -> str:
    """The wire's word for an error."""
    if isinstance(error, Denied):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), "unavailable")


def error_text(error: ChatflowError) -> str:
    """What a client may read: its own mistakes in full, of ours only what to do."""
    if isinstance(error, InvalidInput | Denied):
        return str(error)
    if isinstance(error, TokenRefused):
        return why_refused(error)
    return next((text for kind, text in _TEXTS if isinstance(error, kind)), QUEUE_UNAVAILABLE)
