"""Put live messages in order: they may come late, twice or not at all, and leave once each, by ``seq``."""

from collections.abc import Iterable

import attrs

from chatflow.ports.messages import StoredMessage


@attrs.define
class RoomSequencer:
    """One room on one gateway, from the head at which it started.

    A gap shows as soon as anything above it is known: a later message, or the store's head. Messages above a gap are
    kept, up to ``ahead_limit``; beyond that they are dropped, and the repair reads them from the store.
    """

    ahead_limit: int = 1_000
    last: int | None = attrs.field(default=None, init=False)
    _known_head: int = attrs.field(default=0, init=False)
    _ahead: dict[int, StoredMessage] = attrs.field(factory=dict, init=False)

    def start(self, head: int) -> list[StoredMessage]:
        """Begin above ``head``; what arrived before this call and lies above it is delivered."""
        self.last = head
        early, self._ahead = self._ahead, {}
        return self.offer(early[seq] for seq in sorted(early))

    def offer(self, messages: Iterable[StoredMessage]) -> list[StoredMessage]:
        """Take messages from the live channel or from the store; those that are due now, in order."""
        due: list[StoredMessage] = []
        for stored in messages:
            seq = stored.seq
            if self.last is not None and seq == self.last + 1:
                self.last = seq
                due.append(stored)
                if self._ahead:
                    self._catch_up(due)
            elif self.last is None or seq > self.last:
                self._keep(seq, stored)
        return due

    def note_head(self, head: int) -> None:
        """The store has messages up to here."""
        self._known_head = max(self._known_head, head)

    def missing(self) -> tuple[int, int] | None:
        """The first gap as ``(after_seq, how many)``; ``None`` when nothing is known to be missing."""
        if self.last is None or self._known_head <= self.last:
            return None
        first_kept = min(self._ahead, default=self._known_head + 1)
        return self.last, first_kept - self.last - 1

    def _keep(self, seq: int, stored: StoredMessage) -> None:
        self._known_head = max(self._known_head, seq)
        if len(self._ahead) < self.ahead_limit:
            self._ahead[seq] = stored

    def _catch_up(self, due: list[StoredMessage]) -> None:
        while self.last is not None and (stored := self._ahead.pop(self.last + 1, None)) is not None:
            self.last = stored.seq
            due.append(stored)
