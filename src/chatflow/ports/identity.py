"""Who somebody is: what a token proves, who reads tokens, and who takes them back.

Tokens are secrets: they are never logged, echoed, or part of an error.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import attrs


@attrs.frozen
class Grant:
    """What may be done in some rooms.

    Attributes:
        room: a canonical room name, in which each ``*`` stands for any characters, none included.
    """

    room: str
    may_read: bool
    may_write: bool


@attrs.frozen
class Principal:
    """Somebody, and what that somebody may do; `chatflow.domain.permissions` has the rules.

    Attributes:
        user_id: 0 is nobody in particular.
        expires_at: seconds since the Unix epoch from which nothing of this is true any more, leeway included.
        issued_at: seconds since the Unix epoch; 0 if the token does not say.
        token_id: the token's own id (``jti``), if it has one.
        is_open: nobody proved anything, and nobody is asked to (``CHATFLOW_AUTH=open``).
        permits_all: an admin, or open: no grant needs to be looked at. Hot paths ask this one attribute.
    """

    user_id: int
    username: str
    grants: tuple[Grant, ...] = ()
    expires_at: float = math.inf
    issued_at: float = 0.0
    token_id: str | None = None
    is_admin: bool = False
    may_metrics: bool = False
    is_open: bool = False
    permits_all: bool = attrs.field(init=False)

    @permits_all.default
    def _permits_all(self) -> bool:
        return self.is_admin or self.is_open


OPEN = Principal(0, "", is_open=True)
"""Anybody, where nobody has to prove who they are."""


class Authenticator(Protocol):
    """Reads tokens. Its lifecycle is that of every port; see `chatflow.ports.lifecycle`."""

    async def principal(self, token: str) -> Principal:
        """Who the bearer of the token is.

        Raises:
            TokenRefused: it proves nothing; its ``fault`` says why.
            IdentityUnavailable: whoever could tell is away, so nobody comes in; a later try may work.
        """

    async def open(self) -> None:
        """Make it ready; see `Lifecycle.open`."""

    async def close(self) -> None:
        """Release everything; see `Lifecycle.close`."""

    async def ping(self) -> None:
        """Return if a token that was not seen before has a chance now; raises `IdentityUnavailable`."""

    def counts(self) -> Mapping[str, int]:
        """Counters for ``/metrics``, by name."""


class Revocations(Protocol):
    """Tokens and users that were shut out before their time.

    Sessions ask once, when they begin; whoever implements this ends the sessions that are open, by
    `chatflow.domain.session.roster.Roster.disconnect`.
    """

    def is_revoked(self, principal: Principal) -> bool:
        """Whether the token, or its user since it was issued, was revoked; from memory, without waiting."""
