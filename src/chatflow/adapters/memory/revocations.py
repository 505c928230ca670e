"""Revocations in memory, for tests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.revocations import Revocation, RevocationsFull


@attrs.define(eq=False)
class MemoryRevocationLog:
    """`RevocationLog` of one process."""

    _kept: list[Revocation] = attrs.field(factory=list, init=False)
    _last_id: int = attrs.field(default=0, init=False)

    async def append(self, revocation: Revocation, *, limit: int) -> int:
        """See `RevocationLog.append`."""
        kept = [each for each in self._kept if not _is_done(each, revocation)]
        if len(kept) >= limit:
            raise RevocationsFull(limit)
        self._last_id += 1
        self._kept = [*kept, attrs.evolve(revocation, id=self._last_id)]
        return self._last_id

    async def after(self, revocation_id: int, *, limit: int) -> Sequence[Revocation]:
        """See `RevocationLog.after`."""
        return [each for each in self._kept if each.id > revocation_id][:limit]


def _is_done(kept: Revocation, later: Revocation) -> bool:
    is_same = (kept.user_id, kept.token_id) == (later.user_id, later.token_id)
    is_included = is_same and kept.revoked_at_us <= later.revoked_at_us and kept.expires_at_us <= later.expires_at_us
    return is_included or kept.expires_at_us <= later.revoked_at_us


if TYPE_CHECKING:
    from chatflow.ports.revocations import RevocationLog

    _: type[RevocationLog] = MemoryRevocationLog
