"""Messages that were received and not handled yet, assembled from frames."""

import asyncio
from collections import deque

import attrs
from websockets.frames import Frame, Opcode

from chatflow.domain.session.errors import TOO_BIG

FRAMES = 64
BYTES = 64 * 2**10
"""With this much waiting, no more of what was read is parsed."""

FRAGMENTS_MAX = 4_096


class Unreadable(Exception):
    """A message that ends its connection.

    Attributes:
        code: the close code.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(reason)


@attrs.define(eq=False)
class Inbox:
    """Messages in the order in which they came, and one reader.

    Attributes:
        messages: text, or bytes of a binary message.
        taken_bytes: put in since it was empty.
        is_over: nothing more comes.
    """

    messages: deque[str | bytes] = attrs.field(factory=deque, init=False)
    taken_bytes: int = attrs.field(default=0, init=False)
    is_over: bool = attrs.field(default=False, init=False)
    _parts: list[Frame] = attrs.field(factory=list, init=False)
    _wake: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    @property
    def is_full(self) -> bool:
        """Whether to take nothing more in."""
        return len(self.messages) >= FRAMES or self.taken_bytes >= BYTES

    def put(self, frame: Frame) -> bool:
        """Take a data frame in; whether it ended a message.

        Raises:
            Unreadable: not UTF-8 (1007), or too many fragments (1009).
        """
        if not frame.fin or self._parts:
            return self._put_fragment(frame)
        self.messages.append(_content(frame.opcode, bytes(frame.data)))
        self.wake()
        return True

    def add(self, message: str | bytes) -> None:
        """Take a whole message in."""
        self.taken_bytes += len(message)
        self.messages.append(message)
        self.wake()

    def wake(self) -> None:
        """Wake the reader: its state has changed."""
        self._wake.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.is_over = True
        self._wake.set()

    async def woken(self) -> None:
        """Wait for a message, for the end, or for `wake`; what came before this call does not count."""
        self._wake.clear()
        await self._wake.wait()

    def _put_fragment(self, frame: Frame) -> bool:
        parts = self._parts
        parts.append(frame)
        if not frame.fin:
            if len(parts) >= FRAGMENTS_MAX:
                raise Unreadable(TOO_BIG, "too many fragments")
            return False
        self._parts = []
        self.messages.append(_content(parts[0].opcode, b"".join([part.data for part in parts])))
        self.wake()
        return True


def _content(opcode: Opcode, data: bytes) -> str | bytes:
    if opcode is not Opcode.TEXT:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise Unreadable(1007, f"{exc.reason} at position {exc.start}") from exc
