"""The write-behind buffer: deliveries taken from the broker and not committed yet."""

from collections import deque

import attrs

from chatflow.ports.broker import Delivery
from chatflow.ports.messages import Message

LIMIT_MESSAGES, LIMIT_BYTES = 20_000, 32 * 2**20
"""The defaults, of the settings too: what the buffers of all partitions hold together."""


@attrs.frozen(eq=False)
class Batch:
    """Messages for one transaction, in arrival order.

    Attributes:
        ack: the last delivery that is complete once this batch is committed; ``None`` while the oldest one is not.
    """

    messages: tuple[Message, ...]
    ack: Delivery | None


@attrs.define
class WriteBehindBuffer:
    """Bounded, first in first out, with one batch out at a time.

    * Full means: stop taking from the broker. A delivery that is already there is always let in, so the bound is
      the limit plus one delivery.
    * A batch may end inside a delivery. A delivery is acked only when its last message is committed, so that a
      crash can only repeat, never lose.
    * A batch stays counted until `commit`: retrying it keeps the buffer as full as it is.
    """

    limit_messages: int
    limit_bytes: int
    _deliveries: deque[Delivery] = attrs.field(factory=deque, init=False)
    _offset: int = attrs.field(default=0, init=False)
    _messages: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _out: Batch | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        """Messages held, those of the batch that is out included."""
        return self._messages

    @property
    def size_bytes(self) -> int:
        """Estimated bytes of all deliveries held."""
        return self._bytes

    @property
    def is_full(self) -> bool:
        """Whether to stop taking from the broker."""
        return self._messages >= self.limit_messages or self._bytes >= self.limit_bytes

    def add(self, delivery: Delivery) -> None:
        """Append a delivery."""
        self._deliveries.append(delivery)
        self._messages += len(delivery.envelope.messages)
        self._bytes += delivery.envelope.size_bytes

    def take(self, limit: int) -> Batch | None:
        """The oldest messages, at most ``limit``; ``None`` when there are none.

        Raises:
            RuntimeError: a batch is out already.
        """
        if self._out is not None:
            raise RuntimeError("the previous batch is not committed yet")
        if not self._deliveries:
            return None
        messages: list[Message] = []
        ack: Delivery | None = None
        offset = self._offset
        for delivery in self._deliveries:
            part = delivery.envelope.messages[offset : offset + limit - len(messages)]
            messages += part
            if offset + len(part) < len(delivery.envelope.messages):
                break
            ack, offset = delivery, 0
            if len(messages) >= limit:
                break
        self._out = Batch(tuple(messages), ack)
        return self._out

    def commit(self, batch: Batch) -> Delivery | None:
        """Forget a stored batch; returns the delivery that may now be acked, with all before it.

        Raises:
            RuntimeError: this is not the batch that is out.
        """
        if batch is not self._out:
            raise RuntimeError("this batch is not the one that is out")
        self._out = None
        left = len(batch.messages)
        self._messages -= left
        while left:
            rest = len(self._deliveries[0].envelope.messages) - self._offset
            if left < rest:
                self._offset += left
                break
            left -= rest
            self._offset = 0
            self._bytes -= self._deliveries.popleft().envelope.size_bytes
        return batch.ack
