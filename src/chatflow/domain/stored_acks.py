"""Senders who want to hear of the commit, not only of the confirm: wait for the live channel, or ask the store."""

from collections.abc import Callable

import attrs

from chatflow.ports.broker import LiveEnvelope
from chatflow.ports.clock import Clock
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import MessageReader

Tell = Callable[[StoredMessage], None]
CHUNK = 500


@attrs.define(eq=False)
class StoredAcks:
    """Each `expect` ends in one call of its ``tell``, or in `forget`.

    The live channel may lose a message, so `resync`, called every second or so, asks the store for what is overdue.
    """

    reader: MessageReader
    clock: Clock
    overdue_s: float = 1.0
    _waiting: dict[str, list[tuple[float, Tell]]] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, message_id: str, tell: Tell) -> None:
        """Call before the message is offered: it may be committed before the confirm is known."""
        self._waiting.setdefault(message_id, []).append((self.clock(), tell))

    def forget(self, message_id: str, tell: Tell) -> None:
        """The sender was told something else, or has gone."""
        left = [entry for entry in self._waiting.get(message_id, ()) if entry[1] != tell]
        if left:
            self._waiting[message_id] = left
        else:
            self._waiting.pop(message_id, None)

    def on_live(self, envelope: LiveEnvelope) -> None:
        """Take what was just committed."""
        if self._waiting:
            for stored in envelope.messages:
                self._tell(stored)

    async def resync(self) -> None:
        """Look up what is overdue.

        Raises:
            StoreError: not looked up; try again.
        """
        before = self.clock() - self.overdue_s
        overdue = [message_id for message_id, entries in self._waiting.items() if entries[0][0] <= before]
        for start in range(0, len(overdue), CHUNK):
            for stored in (await self.reader.locate(overdue[start : start + CHUNK])).values():
                self._tell(stored)

    def _tell(self, stored: StoredMessage) -> None:
        for _, tell in self._waiting.pop(stored.message.message_id, ()):
            tell(stored)
