"""The certificate of this process's ports, and its renewals.

A renewal is loaded into a context of its own first. If that fails, the certificate in use stays in use: a half-written
file, or a certificate whose key has not come yet, must not close the ports. Open connections keep what they began with.
"""

import asyncio
import datetime as dt
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import structlog

WATCH_S = 2.0

log = structlog.get_logger()

Fingerprint = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """A certificate cannot be used; one line that names the file."""


@attrs.define(eq=False)
class Certificate:
    """A certificate chain and its key, as PEM files.

    Attributes:
        context: for listeners; it always hands out the newest certificate that could be loaded.
        expires_at: seconds since the epoch.
        renewals: times that a new one was loaded.
        renewals_failed: times that a new one could not be loaded.
    """

    chain: Path
    key: Path
    on_renewal: Callable[[str], object] = attrs.field(kw_only=True, default=lambda _: None)
    context: ssl.SSLContext = attrs.field(init=False)
    expires_at: float = attrs.field(default=0.0, init=False)
    renewals: int = attrs.field(default=0, init=False)
    renewals_failed: int = attrs.field(default=0, init=False)
    _newest: ssl.SSLContext = attrs.field(init=False)
    _seen: Fingerprint = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Load the files.

        Raises:
            CertificateError: they cannot be used.
        """
        self._seen = self._fingerprint()
        self.context = self._newest = self._load()
        self.context.sni_callback = self._choose

    async def watch(self) -> None:
        """Look for a renewal every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.renew()

    def renew(self) -> None:
        """Load the files if they have changed; log why they cannot be used, once per change."""
        found = self._fingerprint()
        if found == self._seen:
            return
        self._seen = found
        try:
            self._newest = self._load()
        except CertificateError as exc:
            self.renewals_failed += 1
            log.error("tls.renewal_failed", error=str(exc), in_use_until=self.expires())  # noqa: TRY400  # a line
            return
        self.renewals += 1
        log.info("tls.renewed", certificate=str(self.chain), expires=self.expires())
        self.on_renewal(self.expires())

    def expires(self) -> str:
        """When the certificate in use does, in UTC."""
        return dt.datetime.fromtimestamp(self.expires_at, dt.UTC).isoformat()

    def _load(self) -> ssl.SSLContext:
        from cryptography import x509  # noqa: PLC0415  # slow to import, and only needed here

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for path in (self.chain, self.key):
            _check_readable(path)
        try:
            context.load_cert_chain(self.chain, self.key, password=_refuse_passphrase)
            leaf = x509.load_pem_x509_certificate(self.chain.read_bytes())
        except ssl.SSLError as exc:
            raise CertificateError(f"{self.chain} with {self.key}: {_in_words(exc)}") from exc
        except (OSError, ValueError) as exc:
            raise CertificateError(f"{self.chain} with {self.key}: {exc}") from exc
        expires = leaf.not_valid_after_utc
        if expires <= dt.datetime.now(dt.UTC):
            raise CertificateError(f"{self.chain}: it expired at {expires.isoformat()}")
        self.expires_at = expires.timestamp()
        return context

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called by OpenSSL in each handshake, with or without a server name."""
        connection.context = self._newest

    def _fingerprint(self) -> Fingerprint:
        return tuple(_state_of(path) for path in (self.chain, self.key))


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as exc:
        raise CertificateError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc


def _refuse_passphrase() -> bytes:
    raise ValueError("the key has a passphrase; write it without one, readable by its owner only")


def _in_words(exc: ssl.SSLError) -> str:
    reasons = {
        "KEY_VALUES_MISMATCH": "the key is not the certificate's",
        "NO_START_LINE": "no PEM is in one of them",
        "PEM_LIB": "no PEM is in one of them",
        "EE_KEY_TOO_SMALL": "the key is too short",
    }
    reason = exc.reason or ("PEM_LIB" if "PEM lib" in str(exc) else "")  # Python leaves it out there
    return reasons.get(reason, f"it cannot be used: {reason or exc}")


def _state_of(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  # through symbolic links, as renewals come
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
