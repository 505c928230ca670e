"""Who asks, by the token of a request, and whether that permits the answer; both before any query and any cache.

Where nobody has to prove who they are no application has this middleware, and every request is that of `OPEN`.
"""

from collections.abc import Callable

import attrs
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from chatflow.adapters.aiohttp.errors import NoToken, NotPermitted
from chatflow.adapters.aiohttp.guard import CLIENT, READ
from chatflow.adapters.aiohttp.parameters import InvalidParameter
from chatflow.domain.admission.rules import HeaderValues
from chatflow.ports.audit_trail import AuditTrail
from chatflow.ports.errors import ChatflowError, TokenFault, TokenRefused
from chatflow.ports.identity import OPEN, Authenticator, Principal, Revocations

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)

SCHEME = "bearer"
IN_URL = ("token", "access_token")
"""Parameters by which clients of other services bring tokens; URLs end in logs and histories."""


@attrs.frozen(eq=False)
class Bearers:
    """Reads the tokens of requests.

    Attributes:
        revocations: ``None`` where nothing is ever revoked.
        audit_trail: hears of whom was refused, not of each request that was answered.
    """

    authenticator: Authenticator
    revocations: Revocations | None = None
    audit_trail: AuditTrail | None = None

    async def principal(self, request: web.Request) -> Principal:
        """Who has sent a request.

        Raises:
            InvalidParameter: the token stands in the URL.
            NoToken: there is none, or more than one.
            TokenRefused: it proves nothing.
            IdentityUnavailable: nobody can tell now.
        """
        for name in IN_URL:
            if name in request.rel_url.query:
                raise InvalidParameter(name, "must not stand in a URL; send Authorization: Bearer")
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, token = given[0].strip().partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != SCHEME:
            raise NoToken
        principal = await self.authenticator.principal(token.strip())
        if self.revocations is not None and self.revocations.is_revoked(principal):
            raise TokenRefused(TokenFault.REVOKED)
        return principal

    def denied(self, request: web.Request, error: ChatflowError, user_id: int) -> None:
        """Put a refusal on record."""
        if self.audit_trail is not None:
            reason = "forbidden" if isinstance(error, NotPermitted) else "bad_token"
            detail = error.fault.value if isinstance(error, TokenRefused) else ""
            address = request[CLIENT].address
            self.audit_trail.denied(
                reason, address, operation="read", path=request.path, user_id=user_id, detail=detail
            )


async def asked_later(path: str, _: HeaderValues) -> bool:
    """A `BearsToken`: whoever reads has to bring a token, of which the middleware makes sure."""
    return path.startswith(READ)


def ask_for_tokens(app: web.Application, bearers: Bearers) -> None:
    """Have an application answer reads to bearers of tokens alone; after its `errors_as_json`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(READ):
            return await handler(request)
        user_id = 0
        try:
            principal = request[PRINCIPAL] = await bearers.principal(request)
            user_id = principal.user_id
            response = await handler(request)
        except (TokenRefused, NotPermitted) as exc:
            bearers.denied(request, exc, user_id)
            raise
        response.headers.add(hdrs.VARY, hdrs.AUTHORIZATION)
        return response

    app.middlewares.append(middleware)


def principal_of(request: web.Request) -> Principal:
    """Who has sent a request, as the middleware found."""
    principal: Principal = request.get(PRINCIPAL, OPEN)
    return principal


def check(request: web.Request, rule: Callable[[Principal], bool]) -> None:
    """Go on if the request's principal may.

    Raises:
        NotPermitted: it may not.
    """
    if not rule(principal_of(request)):
        raise NotPermitted
