"""Ask a service of the operator whose token it is: for tokens that only it can read, or may withdraw at any time.

``POST {"token":"..."}`` to the URL. It answers 200 with claims as a JSON object, in the names of
`chatflow.domain.identity.claims`; 401 or 403 refuses the token. Anything else, also a redirect or silence, means that
nobody knows, and nobody comes in.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import aiohttp
import attrs

from chatflow.domain.identity.claims import ClaimRules
from chatflow.ports.clock import WallClock
from chatflow.ports.errors import IdentityUnavailable, TokenFault, TokenRefused
from chatflow.ports.identity import Authenticator, Principal

TIMEOUT_S = 3.0
LARGEST_BYTES = 65_536
CALLS_MAX = 32
"""At once, and as many connections."""

WAITING_MAX = 1000
"""More are refused, retryable."""

TOKEN_MAX_CHARS = 8192


@attrs.define(eq=False)
class CallbackAuthenticator:
    """An `Authenticator` over HTTP; put `RecentTokens` before it."""

    url: str
    rules: ClaimRules
    now_us: WallClock = lambda: time.time_ns() // 1000
    timeout_s: float = TIMEOUT_S
    calls: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    _client: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _slots: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(CALLS_MAX), init=False)
    _waiting: int = attrs.field(default=0, init=False)

    async def principal(self, token: str) -> Principal:
        """See `Authenticator.principal`."""
        if not 1 <= len(token) <= TOKEN_MAX_CHARS or not token.isascii():
            raise TokenRefused(TokenFault.MALFORMED)
        if self._waiting >= WAITING_MAX:
            raise IdentityUnavailable("too many tokens wait for the authorization callback")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.timeout_s), self._slots:
                claims = await self._ask(token)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            self.failures += 1
            raise IdentityUnavailable(f"the authorization callback failed: {type(exc).__name__}") from None
        finally:
            self._waiting -= 1
        principal = self.rules.principal(claims)
        if principal.expires_at * 1_000_000 <= self.now_us():
            raise TokenRefused(TokenFault.EXPIRED)
        return principal

    async def open(self) -> None:
        """See `Authenticator.open`; nobody is asked before there is a token."""
        self._client = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=CALLS_MAX)
        )

    async def close(self) -> None:
        """See `Authenticator.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ping(self) -> None:
        """See `Authenticator.ping`."""
        if self._client is None:
            raise IdentityUnavailable("closed")

    def counts(self) -> Mapping[str, int]:
        """See `Authenticator.counts`."""
        return {"auth_callbacks": self.calls, "auth_callback_failures": self.failures}

    async def _ask(self, token: str) -> dict[str, object]:
        if self._client is None:
            raise IdentityUnavailable("closed")
        self.calls += 1
        async with self._client.post(self.url, json={"token": token}, allow_redirects=False) as response:
            if response.status in {401, 403}:
                raise TokenRefused(TokenFault.REFUSED)
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            content = await response.content.read(LARGEST_BYTES + 1)
            while not response.content.at_eof() and len(content) <= LARGEST_BYTES:
                content += await response.content.read(LARGEST_BYTES + 1 - len(content))
        if len(content) > LARGEST_BYTES:
            raise ValueError(f"more than {LARGEST_BYTES} bytes")
        try:
            claims = json.loads(content)
        except RecursionError as exc:
            raise ValueError("not claims") from exc
        if not isinstance(claims, dict):
            raise ValueError("not claims")  # noqa: TRY004  # what a server sends is a value
        return claims


if TYPE_CHECKING:

    def _check(callback: CallbackAuthenticator) -> Authenticator:
        return callback
