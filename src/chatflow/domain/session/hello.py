"""Who the user of a ``/ws`` session is: what hello and refresh say, by a token or on the client's word."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from chatflow.domain.messages.errors import Malformed
from chatflow.domain.messages.validation import valid_user_id, valid_username
from chatflow.domain.permissions import may_read
from chatflow.domain.session.access import Access
from chatflow.domain.session.answers import refreshed, welcome
from chatflow.domain.session.errors import Denied
from chatflow.domain.session.joins import Joins
from chatflow.domain.session.sends import SendingSession
from chatflow.domain.session.sign_in import SignIn
from chatflow.ports.errors import ChatflowError, TokenFault, TokenRefused
from chatflow.ports.identity import Principal

Fault = Callable[[object, ChatflowError], None]


@attrs.define(eq=False)
class Hello:
    """The greeting of one session. A refused token may be followed by a better one, until hello is overdue."""

    session: SendingSession
    session_id: str
    joins: Joins
    fault: Fault
    sign_in: SignIn = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sign_in = SignIn(self.session)
        if self.session.context.authenticator is not None and self.session.token is not None:
            self.sign_in.ask_at_once(_anybody)

    def say(self, item: dict[str, Any], ref: object) -> None:
        """Welcome the user, or have its token looked at first.

        Raises:
            Malformed, InvalidMessage, Denied: it cannot be done as asked.
        """
        if self.session.user is not None:
            raise Malformed("hello was said already")
        token = _token_of(item)
        if self.session.context.authenticator is None:
            self._welcome_open(item, ref, token)
        elif token is not None:
            self.sign_in.ask(token, partial(self._welcome, item, ref), partial(self.fault, ref))
        elif self.sign_in.principal is not None:
            self._welcome(item, ref, self.sign_in.principal)
        else:
            raise Denied("unauthorized", "a token is required")

    def refresh(self, item: dict[str, Any], ref: object) -> None:
        """Have a newer token looked at, of the same user; if it is refused, the old one stands.

        Raises:
            Malformed, Denied: it cannot be done as asked.
        """
        token = _token_of(item)
        if self.session.context.authenticator is None:
            raise Denied("unauthorized", "tokens are not accepted here")
        if token is None:
            raise Denied("unauthorized", "a token is required")
        self.sign_in.ask(token, partial(self._refreshed, ref), partial(self.fault, ref))

    def _welcome_open(self, item: dict[str, Any], ref: object, token: str | None) -> None:
        if token is not None:
            raise Denied("unauthorized", "tokens are not accepted here: say hello with userId and username")
        session = self.session
        limits = session.context.limits
        user_id = valid_user_id(item.get("userId"), limits, "userID")
        username = valid_username(item.get("username"), limits, "username")
        principal = Principal(user_id, username, is_open=True)
        revocations = session.context.revocations
        if revocations is not None and revocations.is_revoked(principal):
            raise TokenRefused(TokenFault.REVOKED)
        session.context.roster.enter(session, principal)
        self._answer_welcome(ref, principal)

    def _welcome(self, item: dict[str, Any], ref: object, principal: Principal) -> None:
        user_id, username = item.get("userId"), item.get("username")
        if user_id is not None:
            user_id = valid_user_id(user_id, self.session.context.limits, "userID")
        Access(principal).check_user(user_id, username)
        self._answer_welcome(ref, principal)

    def _answer_welcome(self, ref: object, principal: Principal) -> None:
        session = self.session
        session.user = principal.user_id, principal.username
        heartbeat_s = session.context.heartbeat_s
        session.answer(welcome(ref, self.session_id, session.user, heartbeat_s, principal.expires_at))

    def _refreshed(self, ref: object, principal: Principal) -> None:
        if self.session.user is not None and principal.user_id != self.session.user[0]:
            raise Denied("forbidden", "the token is another user's")
        self.session.user = principal.user_id, principal.username
        self.session.answer(refreshed(ref, principal.expires_at))
        self.joins.leave_unless(partial(may_read, principal))


def _token_of(item: dict[str, Any]) -> str | None:
    token = item.get("token")
    if token is not None and type(token) is not str:
        raise Malformed("token must be a string")
    return token


def _anybody(_principal: Principal) -> None:
    """Whoever has a token may connect; hello says the rest."""
