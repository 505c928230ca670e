"""The audit trail: who came in, who was refused, and what was changed by hand, for whoever has to prove it later.

It holds no text of a message, no token, no password and no query string: `Facts` has no place for any.
"""

from typing import Protocol, TypedDict, Unpack


class Facts(TypedDict, total=False):
    """What an entry may say besides its own arguments.

    Attributes:
        operation: what was asked for, such as ``join``, ``send``, ``history``.
        path: of an HTTP request, without its query.
        origin: of a page, as its browser names it.
        token_id: the ``jti`` of a token, never the token.
        until_us: microseconds since the epoch at which something ends.
        detail: few words, from our own texts only.
    """

    user_id: int
    username: str
    room: str
    message_id: str
    token_id: str
    operation: str
    path: str
    origin: str
    role: str
    count: int
    until_us: int
    detail: str
    settings: dict[str, str]


class AuditTrail(Protocol):
    """Entries stand in call order. No method waits or fails: a trail that cannot be written is counted and logged."""

    def signed_in(self, user_id: int, username: str, address: str, token_id: str = "") -> None:
        """Somebody proved who they are; the same user from the same address is summed up within a second."""

    def denied(self, reason: str, address: str, **facts: Unpack[Facts]) -> None:
        """Somebody was refused. The same reason and address within a second are summed up: one entry, then a count.

        Args:
            reason: a short constant such as ``bad_token``, ``origin``, ``forbidden``; never what the client sent.
            address: of the client, "" if unknown.
        """

    def acted(self, action: str, by: str, **facts: Unpack[Facts]) -> None:
        """Something was changed by hand; never summed up.

        Args:
            action: a constant such as ``token.revoked``, ``user.banned``, ``dead_letters.replayed``.
            by: ``user:7`` for an administrator, ``cli:ada`` for an account of this machine, ``process`` for itself.
        """
