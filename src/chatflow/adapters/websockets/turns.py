"""Waiting for a turn: what `chatflow.domain.session.pacing` decides, slept off on the event loop."""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.session.pacing import MESSAGE_S, PAGE_S, Debt, Pacer
from chatflow.domain.session.rates import Action, RateLimits

Sleep = Callable[[float], Awaitable[None]]


async def pay(debt: Debt, sleep: Sleep = asyncio.sleep) -> None:
    """Wait in line until what is owed is paid."""
    await sleep(debt.reserve())
    debt.paid()


@attrs.define(eq=False)
class OnePerTurn:
    """Of those who wait here, at most one goes on in each turn of the loop."""

    _one: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    async def pass_through(self) -> None:
        """Wait until it is this caller's turn."""
        async with self._one:
            await asyncio.sleep(0)


@attrs.define(eq=False)
class Replays:
    """The pages of history that one connection asks for: one after the other, each paid for before the next."""

    pacer: Pacer
    rates: RateLimits
    _lock: asyncio.Lock | None = attrs.field(default=None, init=False)
    _debt: Debt | None = attrs.field(default=None, init=False)

    async def turn(self, messages: int) -> None:
        """Wait until a page of so many messages may be read."""
        if self._lock is None or self._debt is None:
            self._lock, self._debt = asyncio.Lock(), Debt(self.pacer)
        async with self._lock:
            self._debt.charge(PAGE_S + messages * MESSAGE_S)
            if self._debt.is_due:
                await pay(self._debt)
            if (wait_s := self.rates.spend(Action.PAGE)) > 0:
                await asyncio.sleep(wait_s)
