"""Sends that have no answer yet, and how they are answered."""

from typing import TYPE_CHECKING

import attrs

from chatflow.adapters.websockets.frames import encode_json
from chatflow.domain.messages.errors import InvalidMessage
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.ports.messages import Message, StoredMessage

if TYPE_CHECKING:
    from chatflow.adapters.websockets.session import Session


@attrs.define(eq=False)
class Sent:
    """A send that has no answer yet.

    Attributes:
        arrival: its place among all sends of the connection.
        message_id: the sender's own, ``None`` when it gave none and so cannot repeat it.
        wants_stored: the ack comes after the commit.
    """

    session: "Session"
    room_id: str
    ref: object
    arrival: int
    message_id: str | None
    wants_stored: bool

    def told(self, stored: StoredMessage) -> None:
        """See `Waiter.told`."""
        self.session.stored(self, stored)

    def given_up(self) -> None:
        """See `Waiter.given_up`."""
        self.session.not_seen_stored(self)


def ref_of(ref: object) -> dict[str, object]:
    """The field that echoes a ref, if there is one."""
    return {} if ref is None else {"ref": ref}


def ack_of(ref: object, message: Message, seq: int | None = None) -> bytes:
    """The answer to a send that is safe."""
    shown = "" if ref is None else f'"ref":{ref},' if type(ref) is int else f'"ref":{encode_json(ref).decode()},'
    stored = "" if seq is None else f',"seq":{seq}'
    at = format_timestamp(message.accepted_at_us)
    return f'{{"op":"ack",{shown}"id":"{message.message_id}","at":"{at}"{stored}}}'.encode()


def wants_stored(value: object) -> bool:
    """What a send says of the ack that it wants.

    Raises:
        InvalidMessage: neither durable nor stored.
    """
    if value is None or value == "durable":
        return False
    if value == "stored":
        return True
    raise InvalidMessage("ack must be durable or stored")
