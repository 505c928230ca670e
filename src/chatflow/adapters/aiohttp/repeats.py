"""Requests that came before, byte for byte, and how to answer them again."""

from collections import OrderedDict
from collections.abc import Callable

import attrs

Again = Callable[[], bytes | None]
"""The whole HTTP answer to a request that came before; ``None``: leave it to aiohttp."""


@attrs.define(eq=False)
class Repeats:
    """Heads that came before, and how to answer them again; the oldest go first."""

    limit: int = attrs.field(default=4096, kw_only=True)
    _known: OrderedDict[bytes, Again] = attrs.field(factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, head: bytes) -> bytes | None:
        """What to send now."""
        again = self._known.get(head)
        return None if again is None else again()

    def remember(self, head: bytes, again: Again) -> None:
        """How to answer this head from now on."""
        self._known.pop(head, None)
        self._known[head] = again
        if len(self._known) > self.limit:
            self._known.popitem(last=False)
