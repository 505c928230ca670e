"""Group commit: run small concurrent write transactions as one.

A transaction of one message costs nearly what one of fifty costs: its round trips, its flush, its wake-ups. So while
one is under way, small calls wait for it, and then go together; a call that finds nothing under way starts at once. On
a server, as soon as enough waits to fill a transaction of its own, it gets one, side by side with the others. When a
group fails it is rolled back and each call runs alone, so that everybody gets the outcome that they would have had.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs

from chatflow.adapters.sql.database import Together
from chatflow.adapters.sql.errors import NoAnswer
from chatflow.domain.resilience.tasks import end
from chatflow.ports.clock import Clock
from chatflow.ports.errors import StoreUnavailable

R = TypeVar("R")
Run = Callable[[Callable[..., Any], tuple[object, ...]], Awaitable[Any]]
"""Runs ``fn(conn, *args)`` in a transaction of its own, and raises ``StoreError``."""


@attrs.frozen(eq=False)
class _Call:
    fn: Callable[..., Any]
    args: tuple[object, ...]
    together: Together[Any] | None
    weight: int
    caller: asyncio.Future[Any]

    def settle(self, result: Any) -> None:
        if not self.caller.done():
            self.caller.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.caller.done():
            self.caller.set_exception(error)


@attrs.define(eq=False)
class GroupCommit:
    """Gives every caller the outcome that it would have had alone.

    Args:
        lanes: transactions at one time, at most.
        full: weight that a transaction should carry before another one is worth it.
        apart_s: from the start of a transaction to that of the next one that is not full.
    """

    run: Run
    lanes: int = attrs.field(kw_only=True)
    full: int = attrs.field(kw_only=True)
    apart_s: float = attrs.field(kw_only=True, default=0.0)
    clock: Clock = attrs.field(kw_only=True, default=time.monotonic)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    _waiting: deque[_Call] = attrs.field(init=False, factory=deque)
    _began: float = attrs.field(init=False, default=-math.inf)
    _lanes: set[asyncio.Task[None] | None] = attrs.field(init=False, factory=set)

    @property
    def waiting(self) -> int:
        """Calls whose transaction has not begun."""
        return len(self._waiting)

    async def write(
        self, fn: Callable[..., R], args: tuple[object, ...], together: Together[R] | None, weight: int
    ) -> R:
        """Run ``fn(conn, *args)``, or ``together`` for it and others; without ``together`` it runs alone, in turn.

        A caller that is cancelled takes nobody along: what has begun goes on.
        """
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[R] = loop.create_future()
        self._waiting.append(_Call(fn, args, together, weight, caller))
        if not self._lanes or (len(self._lanes) < self.lanes and self._is_worth_a_lane()):
            self._lanes.add(loop.create_task(self._lane(), name="group-commit"))
        return await caller

    async def finish(self) -> None:
        """Return when nothing is under way or waits."""
        while lanes := [lane for lane in self._lanes if lane is not None]:
            await asyncio.wait(lanes)

    async def aclose(self) -> None:
        """Give up what is under way, and fail every call that waits."""
        await end([lane for lane in self._lanes if lane is not None])
        while self._waiting:
            self._waiting.popleft().fail(StoreUnavailable("the database is closed"))

    def _is_worth_a_lane(self) -> bool:
        return sum(call.weight for call in self._waiting) >= self.full

    async def _lane(self) -> None:
        group: list[_Call] = []
        try:
            while self._waiting:
                await self._keep_apart()
                if group := self._next():
                    await self._commit(group)
                    group = []
        except asyncio.CancelledError:
            for call in group:
                call.fail(StoreUnavailable("the database is closed"))
            raise
        finally:
            self._lanes.discard(asyncio.current_task())  # at once: whoever comes next must open a lane

    async def _keep_apart(self) -> None:
        pause_s = self._began + self.apart_s - self.clock()
        if pause_s > 0 and not self._is_worth_a_lane():
            await self.sleep(pause_s)
        self._began = self.clock()

    def _next(self) -> list[_Call]:
        """The oldest calls that can run together and whose callers still wait, up to a full transaction."""
        group: list[_Call] = []
        weight = 0
        while self._waiting and weight < self.full:
            call = self._waiting[0]
            if group and (call.together is None or call.together != group[0].together):
                break
            self._waiting.popleft()
            if not call.caller.done():
                group.append(call)
                weight += call.weight
        return group

    async def _commit(self, group: list[_Call]) -> None:
        together = group[0].together
        if together is None or len(group) == 1:
            await self._commit_alone(group[0])
            return
        try:
            results = await self.run(together, ([call.args for call in group],))
        except NoAnswer as exc:
            for call in group:
                call.fail(exc)
        except StoreUnavailable as exc:
            group[0].fail(exc)  # one attempt, one failure: the others have one of their own
            self._waiting.extendleft(reversed(group[1:]))
        except Exception:  # noqa: BLE001 - one of them is to blame, and hears of it when it runs alone
            for call in group:
                await self._commit_alone(call)
        else:
            for call, result in zip(group, results, strict=True):
                call.settle(result)

    async def _commit_alone(self, call: _Call) -> None:
        try:
            call.settle(await self.run(call.fn, call.args))
        except Exception as exc:  # noqa: BLE001 - the caller's, whatever it is
            call.fail(exc)
