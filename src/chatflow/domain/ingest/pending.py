"""What one gateway has accepted for one partition and the broker has not confirmed yet."""

from collections import deque
from typing import Protocol

import attrs

from chatflow.ports.broker import size_of
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message

Ref = object
"""Whatever the sink needs to know its message again; opaque here."""


class Sink(Protocol):
    """Where the fate of a message is told, exactly once, in offer order per room."""

    def accepted(self, message: Message, ref: Ref) -> None:
        """The broker has it: it survives."""

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """It was not confirmed. It may exist all the same; the same id may be sent again."""


Pending = tuple[Message, Sink, Ref]


@attrs.define
class PendingPublishes:
    """First in, first out. One envelope is out at a time, so what follows a refused message is refused with it."""

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
