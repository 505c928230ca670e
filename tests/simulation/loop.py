"""An asyncio event loop for several simulated processes in virtual time: the same seed runs the same schedule.

Inside one process callbacks run first in, first out, as asyncio promises. Which process runs next is random, and so is
when the simulated network answers, so that is where schedules differ. Time moves only when nobody can run.

A process may be killed between any two of its callbacks, that is at any await: nothing of it runs again, no ``finally``
included. It may also be stopped and continued.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

STEPS_PER_TURN = 400_000
"""More callbacks than this without reaching the end of a turn is a loop that spins."""

LONG_STOP_S = 2.0

_current: contextvars.ContextVar["Process"] = contextvars.ContextVar("simulated_process")


class Spinning(AssertionError):
    """Callbacks keep scheduling callbacks and time stands still."""


@attrs.define(eq=False)
class Process:
    """What lives and dies together. Tasks and callbacks belong to the process that created them.

    Attributes:
        stopped_at, thawed_at: when it was last stopped, and when it last went on after ``LONG_STOP_S`` or more.
        fuse: callbacks left until it is killed; ``None``: it is not about to be.
        on_death: called when the fuse has burnt down.
    """

    name: str
    number: int
    context: contextvars.Context = attrs.field(factory=contextvars.copy_context)
    ready: deque["Handle"] = attrs.field(factory=deque)
    is_alive: bool = True
    is_stopped: bool = False
    is_listed: bool = False
    stopped_at: float = 0.0
    thawed_at: float = -1.0
    fuse: int | None = None
    on_death: Callable[[], None] | None = None

    def __attrs_post_init__(self) -> None:
        self.context.run(_current.set, self)


class Handle:
    """What `call_soon` and `call_at` return."""

    __slots__ = ("_when", "args", "callback", "context", "dropped", "process")

    def __init__(self, callback, args, context, process, when) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.process = process
        self.dropped = False
        self._when = when

    def cancel(self) -> None:
        self.dropped = True

    def cancelled(self) -> bool:
        return self.dropped

    def when(self) -> float:
        return self._when


class SimulationLoop(asyncio.AbstractEventLoop):
    """Runs in turns: `run_until` returns when virtual time has reached its argument.

    Attributes:
        world: the process of everything that is not under test: network, servers, clients.
        digest: of every step so far; equal digests mean equal schedules.
        errors: what the loop was told of because there was nobody else to tell.
        halted: set it to end the turn at once.
    """

    def __init__(self, seed: object) -> None:
        self._now = 0.0
        self._pick = random.Random(f"{seed}/schedule").random
        self._timers: list[tuple[float, int, Handle]] = []
        self._timer_number = 0
        self._runnable: list[Process] = []
        self._processes: list[Process] = []
        self._tasks: dict[asyncio.Task[Any], Process] = {}
        self.world = self.new_process("world")
        self.steps = 0
        self.digest = 0
        self.errors: list[str] = []
        self.halted = False
        self._is_ending = False

    def new_process(self, name: str) -> Process:
        process = Process(name, len(self._processes))
        self._processes.append(process)
        return process

    def spawn(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that belongs to the process."""
        return self.create_task(coro, context=process.context)

    def after(self, delay_s: float, callback: Callable[..., object], *args: object) -> Handle:
        """Let the world do something later."""
        return self.call_at(self._now + delay_s, callback, *args, context=self.world.context)

    def kill(self, process: Process) -> None:
        """Never run anything of it again; its callbacks are kept, so that `dispose` can end them."""
        if self._is_ending or not process.is_alive:
            return
        process.is_alive = False
        process.fuse = None
        if process.on_death is not None:
            process.on_death()

    def stop_process(self, process: Process) -> None:
        """Run nothing of it until `continue_process`; what comes meanwhile queues up."""
        process.is_stopped = True
        process.stopped_at = self._now

    def continue_process(self, process: Process) -> None:
        if process.is_stopped and self._now - process.stopped_at >= LONG_STOP_S:
            process.thawed_at = self._now
        process.is_stopped = False
        self._list(process)

    def run_until(self, end: float) -> None:
        """Run everything that is due until virtual time ``end``."""
        asyncio._set_running_loop(self)
        try:
            self._run_until(end)
        finally:
            asyncio._set_running_loop(None)

    def unseen_errors(self) -> list[str]:
        """What tasks of living processes raised and nobody looked at."""
        ended = [task for task, process in self._tasks.items() if process.is_alive and task.done()]
        raised = [task for task in ended if not task.cancelled() and task._log_traceback]
        return self.errors + [f"{task!r} raised {task.exception()!r}" for task in raised]

    def dispose(self) -> None:
        """Let every task end by cancellation, those of killed processes too; call it when all was checked."""
        self._is_ending = True
        self._timers.clear()
        for process in self._processes:
            process.is_alive, process.is_stopped, process.fuse = True, False, None
            self._list(process)
        asyncio._set_running_loop(self)
        try:
            for _ in range(20):
                pending = [task for task in self._tasks if not task.done()]
                if not pending:
                    break
                for task in pending:
                    task.cancel()
                self._run_until(self._now + 0.5)
        finally:
            asyncio._set_running_loop(None)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # it was of no interest

    def _run_until(self, end: float) -> None:
        runnable, pick, limit = self._runnable, self._pick, self.steps + STEPS_PER_TURN
        while not self.halted or self._is_ending:
            if not runnable:
                if not self._timers or self._timers[0][0] > end:
                    self._now = end
                    return
                self._fire()
                continue
            at = int(pick() * len(runnable)) if len(runnable) > 1 else 0
            process = runnable[at]
            if not process.ready or not process.is_alive or process.is_stopped:
                process.is_listed = False
                runnable[at] = runnable[-1]
                runnable.pop()
                continue
            handle = process.ready.popleft()
            if not handle.dropped:
                self._step(process, handle)
            if self.steps > limit:
                raise Spinning(f"at {self._now:.3f} s")

    def _step(self, process: Process, handle: Handle) -> None:
        self.steps += 1
        self.digest = hash((self.digest, process.number, self._now))
        if process.fuse is not None:
            process.fuse -= 1
            if process.fuse < 0:
                process.ready.appendleft(handle)
                self.kill(process)
                return
        handle.context.run(handle.callback, *handle.args)

    def _fire(self) -> None:
        when, _, handle = heapq.heappop(self._timers)
        self._now = max(self._now, when)
        if not handle.dropped:
            handle.process.ready.append(handle)
            self._list(handle.process)

    def _list(self, process: Process) -> None:
        if not process.is_listed:
            process.is_listed = True
            self._runnable.append(process)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None, **kwargs) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context, **kwargs)
        self._tasks[task] = (context or contextvars.copy_context()).get(_current, self.world)
        return task

    def call_soon(self, callback, *args, context=None) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        process = context.get(_current, self.world)
        handle = Handle(callback, args, context, process, self._now)
        process.ready.append(handle)
        if not process.is_listed:
            process.is_listed = True
            self._runnable.append(process)
        return handle

    def call_later(self, delay, callback, *args, context=None) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context, context.get(_current, self.world), when)
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, handle))
        return handle

    def call_exception_handler(self, context) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")
