"""Which tokens were revoked, as this process knows; asked for every sign-in and every request."""

from collections.abc import Iterator
from typing import TypeVar

import attrs

from chatflow.ports.identity import Principal
from chatflow.ports.revocations import Revocation

Key = TypeVar("Key")

ANYBODY = 0
"""Instead of a user id: whoever bears the token."""


@attrs.define(eq=False)
class Revoked:
    """`Revocations` from memory. As many as the store keeps, which bounds them; those of one subject count once.

    Attributes:
        leeway_s: by which the clocks of who issues tokens and who revokes them may differ. A token that was issued
            that soon after a revocation is refused as well.
    """

    leeway_s: float = 0.0
    _users: dict[int, Revocation] = attrs.field(factory=dict, init=False)
    _tokens: dict[tuple[str, int], Revocation] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._users) + len(self._tokens)

    def __iter__(self) -> Iterator[Revocation]:
        yield from self._users.values()
        yield from self._tokens.values()

    def is_revoked(self, principal: Principal) -> bool:
        """See `Revocations.is_revoked`. A token that does not say when it was issued may be as old as any."""
        user_id, token_id = principal.user_id, principal.token_id
        if token_id is not None and ((token_id, ANYBODY) in self._tokens or (token_id, user_id) in self._tokens):
            return True
        found, issued_at = self._users.get(user_id), principal.issued_at
        return found is not None and (not issued_at or issued_at <= found.revoked_at_us / 1_000_000 + self.leeway_s)

    def add(self, revocation: Revocation) -> bool:
        """Know one more; whether it shuts out anybody who was not shut out before."""
        if revocation.token_id is not None:
            return _merge(self._tokens, (revocation.token_id, revocation.user_id or ANYBODY), revocation)
        return _merge(self._users, revocation.user_id or ANYBODY, revocation)

    def forget(self, now_us: int) -> None:
        """Drop what has expired."""
        _drop_expired(self._users, now_us)
        _drop_expired(self._tokens, now_us)


def _merge(known: dict[Key, Revocation], key: Key, revocation: Revocation) -> bool:
    """Of two that name the same subject each end counts that is later."""
    before = known.get(key)
    if before is None:
        known[key] = revocation
        return True
    revoked_at_us = max(before.revoked_at_us, revocation.revoked_at_us)
    expires_at_us = max(before.expires_at_us, revocation.expires_at_us)
    known[key] = attrs.evolve(revocation, revoked_at_us=revoked_at_us, expires_at_us=expires_at_us)
    return revoked_at_us > before.revoked_at_us


def _drop_expired(known: dict[Key, Revocation], now_us: int) -> None:
    for key in [key for key, revocation in known.items() if revocation.expires_at_us <= now_us]:
        del known[key]
