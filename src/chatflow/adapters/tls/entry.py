"""The TLS handshake of a connection, before the protocol that it is for knows of it.

The event loop could do this by itself, but then nothing would bound the handshakes under way, and what waits below the
encryption could not be counted: both are somebody else's memory.
"""

import asyncio
import ssl
from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs

from chatflow.adapters.tls.certificate import Certificate
from chatflow.domain.resilience.tasks import end
from chatflow.ports.tls import Secured, TlsListener

SHUTDOWN_S = 2.0
"""For the peer's half of the end of TLS."""


@attrs.define(eq=False)
class TlsEntrance:
    """Handshakes of all ports of this process.

    Args:
        certificate: loaded.
        handshake_s: seconds that one may take.
        limit: at most so many at a time; one more ends the oldest.

    Attributes:
        made: handshakes that succeeded.
        failed: those that did not: garbage, no common version, an unknown authority, silence.
        dropped: those that were ended for a newer one.
    """

    certificate: Certificate
    handshake_s: float = attrs.field(kw_only=True, default=10.0)
    limit: int = attrs.field(kw_only=True, default=1000)
    made: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    _under_way: dict["Handshake", None] = attrs.field(factory=dict, init=False)

    def encrypt(self, raw_transport: asyncio.BaseTransport, protocol: asyncio.Protocol, secured: Secured) -> None:
        """See `TlsListener.encrypt`."""
        Handshake(self, cast("asyncio.Transport", raw_transport), protocol, secured)

    def counts(self) -> dict[str, int]:
        """For metrics."""
        return {
            "tls_handshakes": self.made,
            "tls_handshakes_failed": self.failed,
            "tls_handshakes_dropped": self.dropped,
            "tls_renewals": self.certificate.renewals,
            "tls_renewals_failed": self.certificate.renewals_failed,
        }

    def gauges(self) -> dict[str, float]:
        """For metrics."""
        waiting = float(len(self._under_way))
        return {"tls_handshakes_under_way": waiting, "tls_certificate_expires_at": self.certificate.expires_at}

    def begin(self, handshake: "Handshake") -> None:
        """A handshake begins."""
        if len(self._under_way) >= self.limit:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            self.dropped += 1
            oldest.abort()
        self._under_way[handshake] = None

    def ended(self, handshake: "Handshake", *, is_made: bool) -> None:
        """A handshake has ended."""
        was_dropped = handshake not in self._under_way
        self._under_way.pop(handshake, None)
        self.made += is_made
        self.failed += not (is_made or was_dropped)

    async def close(self) -> None:
        """End every handshake that is under way."""
        handshakes = list(self._under_way)
        for handshake in handshakes:
            handshake.abort()
        await end([handshake.task for handshake in handshakes])


class Handshake(asyncio.Protocol):
    """One handshake; nobody speaks to the protocol of the connection before it is done."""

    def __init__(
        self, entrance: TlsEntrance, raw: asyncio.Transport, protocol: asyncio.Protocol, secured: Secured
    ) -> None:
        self._entrance = entrance
        self._raw = raw
        self._protocol = protocol
        self._secured = secured
        self._early = b""
        raw.pause_reading()
        entrance.begin(self)
        loop = asyncio.get_running_loop()
        upgrade = loop.start_tls(
            raw,
            self,
            entrance.certificate.context,
            server_side=True,
            ssl_handshake_timeout=entrance.handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        self.task = loop.create_task(self._finish(_Begun(upgrade)))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio's own loop, not by uvloop, if data has come together with the end of the handshake."""
        self._early += data

    def abort(self) -> None:
        """End the connection at once."""
        self._raw.abort()

    async def _finish(self, upgrade: "_Begun") -> None:
        is_made = False
        try:
            transport = await upgrade
            is_made = transport is not None and not transport.is_closing()
        except (OSError, ssl.SSLError):
            self._raw.abort()
            return
        finally:
            self._entrance.ended(self, is_made=is_made)
        if transport is None or not is_made:
            self._raw.abort()
            return
        transport.set_protocol(self._protocol)
        self._secured(transport, self._raw)
        if self._early:
            self._protocol.data_received(self._early)


class _Begun:
    """A coroutine that has run up to its first wait, and is awaited for the rest.

    uvloop reads from a new connection as soon as `connection_made` returns. A task of its own would begin too late: the
    first bytes would come to the wrong protocol.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, asyncio.Transport | None]) -> None:
        self._coroutine = coroutine
        self._first = coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, asyncio.Transport | None]:
        waits_for = self._first
        while True:
            try:
                sent = yield waits_for
            except BaseException as exc:  # noqa: BLE001  # a cancellation, too, is the coroutine's to handle
                step = partial(self._coroutine.throw, exc)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                waits_for = step()
            except StopIteration as end_of_it:
                return cast("asyncio.Transport | None", end_of_it.value)


if TYPE_CHECKING:

    def _check(entrance: TlsEntrance) -> TlsListener:
        return entrance
