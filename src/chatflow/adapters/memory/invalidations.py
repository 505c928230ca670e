"""Invalidations among the callers of one process, heard as they happen."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.cache import Invalidation, Invalidations

Heard = Callable[[Invalidation | None], None]


@attrs.define(eq=False)
class MemoryInvalidations:
    """See the port; current for as long as somebody follows, since nothing can go unheard then."""

    _listeners: list[Heard] = attrs.field(init=False, factory=list)

    def is_current(self) -> bool:
        """See the port."""
        return bool(self._listeners)

    async def follow(self, heard: Heard) -> None:
        """See the port."""
        heard(None)
        self._listeners.append(heard)
        try:
            await asyncio.Event().wait()
        finally:
            self._listeners.remove(heard)

    def tell(self, invalidation: Invalidation | None) -> None:
        """Say what was invalidated."""
        for heard in self._listeners:
            heard(invalidation)


if TYPE_CHECKING:
    _: Invalidations = MemoryInvalidations()
