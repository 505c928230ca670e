"""The keys that an identity provider publishes at a URL (JWKS, RFC 7517, section 5), kept and looked for again.

* Keys are fetched at start and again when they are older than ``refresh_s``; the next token after that does not wait.
* A token that names an unknown key has them fetched at once, unless that was tried a few seconds ago: keys rotate.
* While the provider is away the last keys serve on. A key that it has withdrawn holds until the next fetch.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import structlog

from chatflow.adapters.jwt.keys import Key, KeySource, key_of_jwk
from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.ports.clock import Clock
from chatflow.ports.errors import IdentityUnavailable, TokenFault, TokenRefused

REFRESH_S = 300.0
RETRY_S = 5.0
"""Between two fetches, whoever asks for them."""

TIMEOUT_S = 5.0
LARGEST_BYTES = 262_144
KEYS_MAX = 100

log = structlog.get_logger()


@attrs.define(eq=False)
class RemoteKeys:
    """A `KeySource` over a URL that `chatflow.entrypoints.settings` has checked: https, or http on loopback."""

    url: str
    clock: Clock
    refresh_s: float = REFRESH_S
    retry_s: float = RETRY_S
    timeout_s: float = TIMEOUT_S
    fetches: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    _keys: dict[str | None, Key] = attrs.field(factory=dict, init=False)
    _tried_at: float = attrs.field(default=-math.inf, init=False)
    _fetched_at: float = attrs.field(default=-math.inf, init=False)
    _flight: SingleFlight[None] = attrs.field(factory=SingleFlight, init=False)
    _refreshing: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    async def open(self) -> None:
        """See `KeySource.open`."""
        await self._fetch()

    async def close(self) -> None:
        """See `KeySource.close`."""
        self._keys.clear()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def ping(self) -> None:
        """See `KeySource.ping`."""
        if not self._keys:
            raise IdentityUnavailable("no keys were fetched yet")

    async def key_of(self, key_id: str | None) -> Key:
        """See `KeySource.key_of`."""
        key = self._find(key_id)
        if key is not None:
            if self._is_old():
                self._refresh()
            return key
        if self._may_fetch() or len(self._flight):
            await self._fetch()
            key = self._find(key_id)
        if key is not None:
            return key
        if self._fetched_at < self._tried_at:
            raise IdentityUnavailable("the token's key is not known, and the keys cannot be fetched")
        raise TokenRefused(TokenFault.UNKNOWN_KEY)

    def counts(self) -> Mapping[str, int]:
        """See `KeySource.counts`."""
        return {"jwks_fetches": self.fetches, "jwks_failures": self.failures}

    def _find(self, key_id: str | None) -> Key | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _may_fetch(self) -> bool:
        return self.clock() - self._tried_at >= self.retry_s

    def _is_old(self) -> bool:
        return self.clock() - self._fetched_at > self.refresh_s and self._may_fetch() and not len(self._flight)

    def _refresh(self) -> None:
        """Fetch in the background; the keys that are there serve meanwhile."""

        async def refresh() -> None:
            try:
                await self._fetch()
            except IdentityUnavailable as exc:
                log.warning("jwks.fetch_failed", error=str(exc))

        self._refreshing = asyncio.get_running_loop().create_task(refresh())
        self._tried_at = self.clock()

    async def _fetch(self) -> None:
        await self._flight.run("", self._fetch_once)

    async def _fetch_once(self) -> None:
        self.fetches += 1
        try:
            self._keys = parse(await self._read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            self.failures += 1
            self._tried_at = self.clock()
            raise IdentityUnavailable(f"the keys cannot be fetched: {str(exc) or type(exc).__name__}") from exc
        self._fetched_at = self._tried_at = self.clock()

    async def _read(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as client,
            client.get(self.url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            content = bytearray()
            async for chunk in response.content.iter_chunked(16_384):
                content += chunk
                if len(content) > LARGEST_BYTES:
                    raise ValueError(f"more than {LARGEST_BYTES} bytes")
            return bytes(content)


def parse(content: bytes) -> dict[str | None, Key]:
    """The usable keys of a key set by their id; the others are left out, as RFC 7517 asks for.

    Raises:
        ValueError: not a key set, or none of its keys can be used.
    """
    try:
        value = json.loads(content)
    except RecursionError as exc:
        raise ValueError("is no key set") from exc
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise ValueError("is no key set")  # noqa: TRY004  # what a server sends is a value
    keys: dict[str | None, Key] = {}
    for entry in entries[:KEYS_MAX]:
        try:
            key_id = _id_of(entry)
            keys[key_id] = key_of_jwk(entry)
        except ValueError as exc:
            log.info("jwks.key_left_out", reason=str(exc))
    if not keys:
        raise ValueError("holds no key for RS256, ES256 or EdDSA")
    return keys


def _id_of(entry: Any) -> str | None:
    key_id = entry.get("kid") if isinstance(entry, dict) else 0
    if key_id is not None and not isinstance(key_id, str):
        raise ValueError("is no key")
    return key_id


if TYPE_CHECKING:

    def _check(keys: RemoteKeys) -> KeySource:
        return keys
