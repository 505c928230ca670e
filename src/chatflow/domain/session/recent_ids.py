"""The message ids that senders gave lately, and what they stood for: a gateway tells of a conflict while it remembers.

Only for acks that come before the commit. Where an ack comes after it, the store decides, and is asked every time.

Two generations: when the younger is full it becomes the older, and the older is forgotten. So between half of the limit
and all of it is remembered, at the price of one or two look-ups.
"""

import attrs

from chatflow.domain.messages.errors import Conflict
from chatflow.ports.messages import Message, MessageKey

REMEMBERED_IDS = 20_000
"""The default: some 6 MB."""


@attrs.define(eq=False)
class RecentIds:
    """One gateway's.

    Attributes:
        limit: ids at most, rounded up to an even number; 0 remembers none.
    """

    limit: int = REMEMBERED_IDS
    _young: dict[MessageKey, int] = attrs.field(factory=dict, init=False)
    _old: dict[MessageKey, int] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def check(self, message: Message) -> None:
        """Remember what the sender's own id stands for.

        Raises:
            Conflict: it stood for another text, or another room.
        """
        if not self.limit:
            return
        key = message.message_id, message.user_id
        content = hash((message.room_id, message.text))
        known = self._young.get(key)
        if known is None:
            known = self._old.get(key)
        if known is None:
            self._remember(key, content)
        elif known != content:
            raise Conflict

    def learn(self, stored: Message) -> None:
        """Remember what is stored under an id, whatever it seemed to stand for."""
        if self.limit:
            self._remember(stored.key, hash((stored.room_id, stored.text)))

    def _remember(self, key: MessageKey, content: int) -> None:
        if len(self._young) * 2 >= self.limit:
            self._old, self._young = self._young, {}
        self._young[key] = content
