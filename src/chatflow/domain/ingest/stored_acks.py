"""Acks that wait for the commit, not only for the confirm: the live channel brings them, the store if that fails."""

from typing import Protocol

import attrs

from chatflow.ports.broker import LiveEnvelope
from chatflow.ports.clock import Clock
from chatflow.ports.messages import MessageKey, StoredMessage
from chatflow.ports.store import MessageReader

CHUNK = 500


class Waiter(Protocol):
    """One send that waits; compared by identity."""

    def told(self, stored: StoredMessage) -> None:
        """What is stored under its key: the first message that used it, which may be another one."""

    def given_up(self) -> None:
        """No commit was seen in time: it may still be on its way, or have become a dead letter."""


@attrs.define(eq=False)
class StoredAcks:
    """Each `expect` ends in one call of its waiter, or in `forget`.

    The live channel may lose a message, so `resync`, called about every second, looks up in the store what is overdue.

    Args:
        overdue_s: after this long, `resync` looks in the store.
        patience_s: after this long, the waiter is given up.

    Attributes:
        is_idle: nobody waits.
    """

    reader: MessageReader
    clock: Clock
    overdue_s: float = 1.0
    patience_s: float = 10.0
    is_idle: bool = attrs.field(default=True, init=False)
    _waiting: dict[MessageKey, list[tuple[float, Waiter]]] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, key: MessageKey, waiter: Waiter) -> None:
        """Call before the message is offered: it may be committed before the confirm is known."""
        self._waiting.setdefault(key, []).append((self.clock(), waiter))
        self.is_idle = False

    def forget(self, key: MessageKey, waiter: Waiter) -> None:
        """Stop waiting: the sender was told something else, or has gone."""
        left = [entry for entry in self._waiting.get(key, ()) if entry[1] is not waiter]
        if left:
            self._waiting[key] = left
        else:
            self._waiting.pop(key, None)
            self.is_idle = not self._waiting

    def on_live(self, envelope: LiveEnvelope) -> None:
        """Take what was just committed."""
        if waiting := self._waiting:
            for stored in envelope.messages:
                message = stored.message
                if (message.message_id, message.user_id) in waiting:
                    self._tell(stored)

    async def resync(self) -> None:
        """Look up what is overdue, and give up what has waited for ``patience_s``.

        Raises:
            StoreError: nothing was looked up; call again.
        """
        before = self.clock() - self.overdue_s
        overdue = [key for key, entries in self._waiting.items() if entries[0][0] <= before]
        for start in range(0, len(overdue), CHUNK):
            for stored in (await self.reader.locate(overdue[start : start + CHUNK])).values():
                self._tell(stored)
        self._give_up(overdue)

    def _tell(self, stored: StoredMessage) -> None:
        waiters = self._waiting.pop(stored.message.key, ())
        self.is_idle = not self._waiting
        for _, waiter in waiters:
            waiter.told(stored)

    def _give_up(self, overdue: list[MessageKey]) -> None:
        before = self.clock() - self.patience_s
        for key in overdue:
            for since, waiter in list(self._waiting.get(key, ())):
                if since <= before:
                    self.forget(key, waiter)
                    waiter.given_up()
