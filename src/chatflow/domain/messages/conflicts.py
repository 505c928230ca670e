"""One message id of one user stands for one message: whatever comes again under it must be the same."""

from collections.abc import Iterator, Sequence

from chatflow.ports.messages import Message, MessageKey, StoredMessage


def conflicts(message: Message, stored: Message) -> bool:
    """Whether two messages of one key differ in what their sender chose: the room, or the text."""
    return message.room_id != stored.room_id or message.text != stored.text


def conflicting(batch: Sequence[Message], stored: Sequence[StoredMessage]) -> Iterator[Message]:
    """Those of a batch that are not stored, since another message of their key was first."""
    first: dict[MessageKey, Message] = {row.message.key: row.message for row in stored}
    for message in batch:
        row = first.get((message.message_id.lower(), message.user_id))
        if row is not None and conflicts(message, row):
            yield message


class FoundConflicts(dict[int, Message]):
    """Conflicts that the commit has found, until the confirm of the very same object: both happen in one process.

    Empty, and so false, while there are none. The oldest is forgotten beyond ``limit``: its confirm may never come.
    """

    def __init__(self, limit: int = 0) -> None:
        super().__init__()
        self.limit = limit

    def add(self, message: Message) -> None:
        """Note one; it is kept, so that no other object gets its identity."""
        self[id(message)] = message
        if len(self) > self.limit:
            del self[next(iter(self))]

    def take(self, message: Message) -> bool:
        """Whether it was noted; forget it."""
        return self.pop(id(message), None) is not None
