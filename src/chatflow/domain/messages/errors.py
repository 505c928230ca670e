"""Input errors; their texts are sent to the client.

ChatflowError
└── InvalidInput         final: the same input is refused again
    ├── InvalidRoom
    ├── InvalidMessage
    ├── Conflict
    └── Malformed        not JSON, or not the shape that the protocol has
"""

from chatflow.ports.errors import ChatflowError


class InvalidInput(ChatflowError):
    """The input breaks a rule; the text is for the client."""


class InvalidRoom(InvalidInput):
    """Not a room name."""

    def __init__(self, max_chars: int) -> None:
        super().__init__(f"Invalid roomId: must be 1-{max_chars} characters of A-Z a-z 0-9 . _ -")


class InvalidMessage(InvalidInput):
    """A field of a message breaks a rule."""


class Conflict(InvalidInput):
    """The sender's id stands for another message of theirs, which came first."""

    def __init__(self) -> None:
        super().__init__("the message id was used before, with another room or text")


class Malformed(InvalidInput):
    """The frame cannot be understood."""
