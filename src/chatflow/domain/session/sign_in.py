"""From a token to who a session is, until the token ends."""

import math
from collections.abc import Callable
from functools import partial

import attrs

from chatflow.domain.identity.faults import WHY_REFUSED
from chatflow.domain.session.access import Access
from chatflow.domain.session.core import Session
from chatflow.domain.session.effects import Authenticate, Timer
from chatflow.domain.session.errors import FORBIDDEN, NO_HELLO, OVERLOADED, error_text
from chatflow.domain.session.pacing import TOKEN_S
from chatflow.ports.errors import ChatflowError, TokenFault, TokenRefused
from chatflow.ports.identity import Principal

TIMER_MAX_S = 86_400.0
"""A later end is looked at again then: clocks may be set meanwhile."""

REASON_CHARS = 100
"""Of a close frame's reason, which holds 123 bytes (RFC 6455, section 5.5); an operator may give claims long names."""

Accept = Callable[[Principal], None]
Failed = Callable[[ChatflowError], None]


@attrs.define(eq=False)
class SignIn:
    """The tokens of one session.

    While one is looked at, the connection is not read from. For that it takes every place that the connection's
    messages may have under way, so that no message pays for a check of its own.

    Attributes:
        principal: ``None`` until a token was accepted.
    """

    session: Session
    principal: Principal | None = attrs.field(default=None, init=False)
    _timer_at: float = attrs.field(default=math.inf, init=False)

    def ask(self, token: str, accept: Accept, failed: Failed) -> None:
        """Have a token looked at. ``accept`` may raise a `ChatflowError`; otherwise its principal is the session's."""
        session = self.session
        session.is_waiting = True
        session.inflight.count += session.context.inflight_per_connection
        session.inflight.charge_answer(TOKEN_S)
        answered = partial(self._answered, accept, failed)
        session.effects.append(Authenticate(token, answered, partial(self._failed, failed)))

    def ask_at_once(self, accept: Accept) -> None:
        """Have the token of the handshake looked at; without a valid one the connection is closed."""
        if self.session.token is None:
            self.session.disconnect(NO_HELLO, "a token is required")
        else:
            self.ask(self.session.token, accept, self.turn_away)

    def turn_away(self, error: ChatflowError) -> None:
        """Close a connection that began without a valid token."""
        code = OVERLOADED if error.retryable else NO_HELLO
        self.session.disconnect(code, error_text(error)[:REASON_CHARS])

    def enter(self, principal: Principal) -> None:
        """From now on the session is this principal's."""
        if self.principal is None:
            self.session.share = self.session.inflight.share = self.session.context.share_of(principal.user_id)
        self.principal = principal
        self.session.access = Access(principal)
        self.session.rates.enter(principal.user_id)
        self.session.context.roster.enter(self.session, principal)
        self._watch(principal)

    def _answered(self, accept: Accept, failed: Failed, principal: Principal) -> None:
        metrics = self.session.context.metrics
        if self.session.is_ended:
            self._go_on()
            return
        try:
            self._check(principal)
            self._check_sessions(principal)
            accept(principal)
        except ChatflowError as exc:
            self._refused(exc)
            self._go_on(failed, exc)
            return
        metrics.tokens_accepted += 1
        if (trail := self.session.context.audit_trail) is not None:
            trail.signed_in(principal.user_id, principal.username, self.session.client_ip, principal.token_id or "")
        self.enter(principal)
        self._go_on()

    def _failed(self, failed: Failed, error: ChatflowError) -> None:
        if error.retryable:
            self.session.context.metrics.tokens_unchecked += 1
        else:
            self._refused(error)
        self._go_on(failed, error)

    def _refused(self, error: ChatflowError) -> None:
        context = self.session.context
        context.metrics.tokens_refused += 1
        if context.audit_trail is not None:
            reason = "bad_token" if isinstance(error, TokenRefused) else "forbidden"
            detail = error.fault.value if isinstance(error, TokenRefused) else error_text(error)
            context.audit_trail.denied(reason, self.session.client_ip, operation="sign_in", detail=detail)

    def _go_on(self, failed: Failed | None = None, error: ChatflowError | None = None) -> None:
        session = self.session
        session.is_waiting = False
        if failed is not None and error is not None and not session.is_ended:
            failed(error)
        session.inflight.settle(session.context.inflight_per_connection)

    def _check(self, principal: Principal) -> None:
        """What the authenticator cannot know: the answer may have waited, and a revocation may have come since."""
        revocations = self.session.context.revocations
        if self._left_s(principal) <= 0:
            raise TokenRefused(TokenFault.EXPIRED)
        if revocations is not None and revocations.is_revoked(principal):
            raise TokenRefused(TokenFault.REVOKED)

    def _check_sessions(self, principal: Principal) -> None:
        if self.principal is None:
            context = self.session.context
            context.quotas.check_sessions(context.roster.sessions_of(principal.user_id))

    def _left_s(self, principal: Principal) -> float:
        return principal.expires_at - self.session.context.stamps.now_us() / 1_000_000

    def _watch(self, principal: Principal) -> None:
        """Look again when the token ends, unless a timer looks earlier."""
        if principal.expires_at < self._timer_at:
            delay_s = min(max(self._left_s(principal), 0.0), TIMER_MAX_S)
            self._timer_at = principal.expires_at
            self.session.effects.append(Timer(delay_s, self._expire))

    def _expire(self) -> None:
        self._timer_at = math.inf
        principal = self.principal
        if principal is None or self.session.is_ended:
            return
        if self._left_s(principal) > 0:
            self._watch(principal)
            return
        self.session.context.metrics.tokens_expired += 1
        self.session.disconnect(FORBIDDEN, WHY_REFUSED[TokenFault.EXPIRED])
