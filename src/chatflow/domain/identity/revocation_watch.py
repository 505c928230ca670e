"""Follow what is revoked anywhere: read it all before anybody comes in, then what is new, every few seconds."""

import asyncio
from collections.abc import Callable, Mapping

import attrs

from chatflow.domain.identity.revoked import Revoked
from chatflow.ports.clock import WallClock
from chatflow.ports.errors import ChatflowError
from chatflow.ports.revocations import RevocationLog

POLL_S = 2.0
PAGE = 1_000
OVERLAP = 100
"""Ids that are read again each time: of two revocations at once the later id may become visible first."""


@attrs.define(eq=False)
class RevocationWatch:
    """Keeps `Revoked` up to date. While the store is away, what is known stays known.

    Attributes:
        failed: told of the first failure in a row.
        on_news: called after a read that found somebody to shut out, to end sessions that are open.
    """

    log: RevocationLog
    revoked: Revoked
    now_us: WallClock
    poll_s: float = POLL_S
    failed: Callable[[ChatflowError], object] = attrs.field(kw_only=True, default=lambda _: None)
    on_news: list[Callable[[], object]] = attrs.field(factory=list, init=False)
    reads_failed: int = attrs.field(default=0, init=False)
    _last_id: int = attrs.field(default=0, init=False)
    _is_failing: bool = attrs.field(default=False, init=False)

    async def read(self) -> None:
        """Read what is new, the first time everything.

        Raises:
            StoreUnavailable, StoreOverloaded, QueryTimeout: some is unknown; read again.
        """
        has_news, after, now_us = False, max(self._last_id - OVERLAP, 0), self.now_us()
        try:
            while page := await self.log.after(after, limit=PAGE):
                for revocation in page:
                    if revocation.expires_at_us > now_us:
                        has_news |= self.revoked.add(revocation)
                after = page[-1].id
                self._last_id = max(self._last_id, after)
                if len(page) < PAGE:
                    break
        finally:
            self.revoked.forget(now_us)
            if has_news:
                for tell in self.on_news:
                    tell()

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await asyncio.sleep(self.poll_s)
            try:
                await self.read()
            except ChatflowError as exc:
                self.reads_failed += 1
                if not self._is_failing:
                    self.failed(exc)
                self._is_failing = True
            else:
                self._is_failing = False

    def counts(self) -> Mapping[str, int]:
        """Counters for ``/metrics``, by name."""
        return {"revocation_reads_failed": self.reads_failed}

    def gauges(self) -> Mapping[str, float]:
        """Present values for ``/metrics``, by name."""
        return {"revocations": float(len(self.revoked))}
