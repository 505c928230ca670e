"""What was revoked, where every process of a fleet finds it: durable, and readable from any point on."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from chatflow.ports.errors import StoreError


@attrs.frozen
class Revocation:
    """A user's tokens of before ``revoked_at_us``, or one token, are refused.

    Attributes:
        user_id: whose tokens; ``None``: whoever bears the token.
        token_id: which token (``jti``); ``None``: all that the user was issued before.
        revoked_at_us: microseconds since the epoch.
        expires_at_us: from when it may be forgotten, because every such token has ended.
        by: who revoked it, as in the audit trail.
        id: a later revocation has a greater one; 0 before it is kept.
    """

    user_id: int | None
    token_id: str | None
    revoked_at_us: int
    expires_at_us: int
    by: str
    id: int = 0


class RevocationsFull(StoreError):
    """As many are kept as may be; none is forgotten before its time."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} revocations are kept, and no more may be (CHATFLOW_REVOCATIONS_MAX)")


class RevocationLog(Protocol):
    """Revocations in the order of their ids. All methods raise ``StoreUnavailable``.

    Two that are appended at once may become visible in either order.
    """

    async def append(self, revocation: Revocation, *, limit: int) -> int:
        """Keep one and return its id. Whatever has expired when it was revoked goes, and what it includes.

        Raises:
            RevocationsFull: more than ``limit`` would be kept; nothing has changed.
        """

    async def after(self, revocation_id: int, *, limit: int) -> Sequence[Revocation]:
        """The first ``limit`` of those with a greater id, in the order of ids; also raises ``StoreOverloaded``."""
