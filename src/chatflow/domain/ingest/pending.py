"""Messages that one gateway has taken for one partition and not published yet."""

from collections import deque
from typing import Protocol

import attrs

from chatflow.ports.broker import size_of
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message

Ref = object
"""Whatever the sink needs to recognise its message; opaque here."""


class Sink(Protocol):
    """Is told the outcome of each message exactly once, in offer order per room."""

    def accepted(self, message: Message, ref: Ref) -> None:
        """The broker has confirmed it, so it survives any crash."""

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """It was not confirmed. The broker may have it all the same; sending it again with its id is safe."""


Pending = tuple[Message, Sink, Ref]


@attrs.define
class PendingPublishes:
    """First in, first out. One envelope is in flight at a time, so whatever waits behind a refused one is refused."""

    _waiting: deque[Pending] = attrs.field(factory=deque, init=False)
    _bytes: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message, sink: Sink, ref: Ref) -> int:
        """Append; the bytes that this added."""
        size = size_of(message)
        self._waiting.append((message, sink, ref))
        self._bytes += size
        return size

    def take(self, max_messages: int, max_bytes: int) -> tuple[list[Pending], int]:
        """The oldest messages that fit, at least one, and their bytes."""
        waiting = self._waiting
        if len(waiting) <= max_messages and self._bytes <= max_bytes:
            batch, size = list(waiting), self._bytes
            waiting.clear()
            self._bytes = 0
            return batch, size
        batch, size = [], 0
        while waiting and len(batch) < max_messages:
            size_next = size_of(waiting[0][0])
            if batch and size + size_next > max_bytes:
                break
            batch.append(waiting.popleft())
            size += size_next
        self._bytes -= size
        return batch, size

    def take_all(self) -> tuple[list[Pending], int]:
        """Everything, to refuse it."""
        return self.take(len(self._waiting), self._bytes)
