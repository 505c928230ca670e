"""Reads JSON Web Tokens: PyJWT checks the signature and the times, `ClaimRules` the rest."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from chatflow.adapters.jwt.keys import Key, KeySource
from chatflow.domain.identity.claims import ClaimRules
from chatflow.ports.errors import TokenFault, TokenRefused
from chatflow.ports.identity import Authenticator, Principal

TOKEN_MAX_CHARS = 8192
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
"""RFC 7515, section 7.1; without a signature, so that ``none`` is called a wrong algorithm and not malformed."""

REQUIRED = ("exp", "aud", "sub")

_FAULTS: tuple[tuple[type[jwt.PyJWTError], TokenFault, str], ...] = (
    (jwt.ExpiredSignatureError, TokenFault.EXPIRED, ""),
    (jwt.ImmatureSignatureError, TokenFault.NOT_YET_VALID, ""),
    (jwt.InvalidAudienceError, TokenFault.WRONG_AUDIENCE, ""),
    (jwt.InvalidIssuerError, TokenFault.WRONG_ISSUER, ""),
    (jwt.InvalidIssuedAtError, TokenFault.BAD_CLAIM, "iat"),
    (InvalidSubjectError, TokenFault.BAD_CLAIM, "sub"),
    (InvalidJTIError, TokenFault.BAD_CLAIM, "jti"),
    (jwt.InvalidSignatureError, TokenFault.BAD_SIGNATURE, ""),
    (jwt.InvalidAlgorithmError, TokenFault.WRONG_ALGORITHM, ""),
    (jwt.PyJWTError, TokenFault.MALFORMED, ""),
)
"""The first that fits; a class stands before its base."""


@attrs.frozen(eq=False)
class JwtAuthenticator:
    """An `Authenticator` for signed tokens.

    Args:
        keys: which key a token must be signed with.
        audience: that the token must be meant for.
        rules: how its claims are read; with them the leeway.
        issuer: that it must come from; "" for any that has the key.
    """

    keys: KeySource
    audience: str
    rules: ClaimRules
    issuer: str = ""

    async def principal(self, token: str) -> Principal:
        """See `Authenticator.principal`."""
        header = _header(token)
        key = await self.keys.key_of(header.get("kid"))
        return self.rules.principal(self._claims(token, key))

    async def open(self) -> None:
        """See `Authenticator.open`."""
        await self.keys.open()

    async def close(self) -> None:
        """See `Authenticator.close`."""
        await self.keys.close()

    async def ping(self) -> None:
        """See `Authenticator.ping`."""
        await self.keys.ping()

    def counts(self) -> Mapping[str, int]:
        """See `Authenticator.counts`."""
        return self.keys.counts()

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                audience=self.audience,
                issuer=self.issuer or None,
                leeway=self.rules.leeway_s,
                options={"require": list(REQUIRED)},
            )
        except jwt.MissingRequiredClaimError as exc:
            raise TokenRefused(TokenFault.BAD_CLAIM, exc.claim) from exc
        except jwt.PyJWTError as exc:
            raise _refused(exc) from exc


def _header(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_MAX_CHARS or not _COMPACT.fullmatch(token):
        raise TokenRefused(TokenFault.MALFORMED)
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError as exc:
        raise _refused(exc) from exc


def _refused(error: jwt.PyJWTError) -> TokenRefused:
    return next(TokenRefused(fault, claim) for kind, fault, claim in _FAULTS if isinstance(error, kind))


if TYPE_CHECKING:

    def _check(authenticator: JwtAuthenticator) -> Authenticator:
        return authenticator
