"""Messages that one gateway has taken for one partition and not published yet."""

import sys
from collections import deque
from typing import Protocol

import attrs

from chatflow.domain.ingest.fairness import SenderShare
from chatflow.ports.broker import size_of
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message

Ref = object
"""Whatever the sink needs to recognise its message; opaque here."""


class Sink(Protocol):
    """Is told the outcome of each message exactly once, in offer order per room.

    Attributes:
        share: of the sender, which may have several sinks.
    """

    share: SenderShare

    def accepted(self, message: Message, ref: Ref) -> None:
        """The broker has confirmed it, so it survives any crash."""

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """It was not confirmed. The broker may have it all the same; sending it again with its id is safe.

        `Conflict` is the exception: it is not stored, and never will be under its id.
        """


Pending = tuple[Message, Sink, Ref]


@attrs.define(eq=False)
class PendingPublishes:
    """Light senders first, in the order in which they came; heavy senders in turn, each in its own order.

    A sender stands in one of both: what a light one has waiting goes with it when it becomes heavy, and it is heavy
    here until nothing of it waits. One envelope is in flight at a time, so whatever waits behind a refused one is
    refused.
    """

    _light: deque[Pending] = attrs.field(factory=deque, init=False)
    _heavy: dict[SenderShare, deque[Pending]] = attrs.field(factory=dict, init=False)
    _bytes: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._light) + self._heavy_count()

    def __bool__(self) -> bool:
        return bool(self._light or self._heavy)

    @property
    def light(self) -> SenderShare | None:
        """A light sender that waits."""
        return self._light[-1][1].share if self._light else None

    @property
    def has_heavy(self) -> bool:
        """Whether a heavy sender waits."""
        return bool(self._heavy)

    def add(self, message: Message, sink: Sink, ref: Ref) -> int:
        """Append; the bytes that this added."""
        size = size_of(message)
        self._bytes += size
        share = sink.share
        if self._heavy and (queue := self._heavy.get(share)) is not None:
            queue.append((message, sink, ref))
        elif share.is_heavy:
            self._new_queue(share).append((message, sink, ref))
        else:
            self._light.append((message, sink, ref))
        return size

    def take(self, max_messages: int, max_bytes: int, heavy_messages: int = sys.maxsize) -> tuple[list[Pending], int]:
        """The next messages that fit, at least one, and their bytes.

        Of heavy senders it takes at most ``heavy_messages``, or as many as of light ones; a few are kept free for them.
        """
        heavy = self._heavy_count()
        if len(self._light) + heavy <= max_messages and self._bytes <= max_bytes and heavy <= heavy_messages:
            batch, size = list(self._light), self._bytes
            for queue in self._heavy.values():
                batch += queue
            self._light.clear()
            self._heavy.clear()
            self._bytes = 0
            return batch, size
        kept = min(heavy, heavy_messages, max_messages // 8)
        batch, size = self._take_light(max_messages - kept, max_bytes - max_bytes // 8 if kept else max_bytes)
        room = min(max_messages - len(batch), max(heavy_messages, len(batch)))
        size = self._take_heavy(batch, room, size, max_bytes)
        self._bytes -= size
        return batch, size

    def take_all(self) -> tuple[list[Pending], int]:
        """Everything, to refuse it."""
        return self.take(len(self), self._bytes)

    def _heavy_count(self) -> int:
        return sum(map(len, self._heavy.values()))

    def _new_queue(self, share: SenderShare) -> deque[Pending]:
        queue = self._heavy[share] = deque()
        if self not in share.settled:
            share.settled.add(self)
            if self._light:
                self._move(share, queue)
        return queue

    def _move(self, share: SenderShare, queue: deque[Pending]) -> None:
        """What it sent while it was light must not be overtaken."""
        light, self._light = self._light, deque()
        for pending in light:
            (queue if pending[1].share is share else self._light).append(pending)

    def _take_light(self, room: int, max_bytes: int) -> tuple[list[Pending], int]:
        batch: list[Pending] = []
        size, light = 0, self._light
        while light and len(batch) < room:
            size_next = size_of(light[0][0])
            if batch and size + size_next > max_bytes:
                break
            batch.append(light.popleft())
            size += size_next
        return batch, size

    def _take_heavy(self, batch: list[Pending], room: int, size: int, max_bytes: int) -> int:
        """Add at most ``room``, each sender in its turn; all bytes."""
        heavy = self._heavy
        while heavy and room > 0:
            turn = max(1, room // len(heavy))
            for share in list(heavy)[:room]:
                queue = heavy[share]
                for _ in range(min(turn, len(queue))):
                    size_next = size_of(queue[0][0])
                    if batch and size + size_next > max_bytes:
                        return size  # first in turn for the next envelope
                    batch.append(queue.popleft())
                    size += size_next
                    room -= 1
                del heavy[share]
                if queue:
                    heavy[share] = queue  # behind the others
        return size
