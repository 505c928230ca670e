"""The process around the roles: one event loop, drain on SIGINT and SIGTERM, one line when it cannot start."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

import attrs
import structlog

from chatflow.domain.resilience.tasks import end
from chatflow.entrypoints.terminal import visible
from chatflow.ports.errors import ChatflowError

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop

EXIT_REFUSED = 2
SWITCH_INTERVAL_S = 0.0002
EXIT_INTERRUPTED = 130

Result = TypeVar("Result")

log = structlog.get_logger()


class StartError(Exception):
    """The process cannot start; the text is the one line that the user sees."""


class Stopped(Exception):
    """The process was asked to stop before it had started."""


@attrs.define(eq=False)
class Lifetime:
    """Runs the loops of a process until it is asked to stop or one of them fails."""

    _stop: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _loops: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)

    def run(self, *loops: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Start loops; one that fails stops the process."""
        tasks = [asyncio.create_task(loop) for loop in loops]
        for task in tasks:
            task.add_done_callback(self._ended)
        self._loops += tasks
        return tasks

    def stop(self) -> None:
        """Ask to stop."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait for `stop`, a signal, or a failed loop."""
        await self._stop.wait()

    async def unless_stopped(self, waiting: Awaitable[Result]) -> Result:
        """Wait for this, or until asked to stop.

        Raises:
            Stopped: asked to stop first; ``waiting`` is cancelled.
        """
        work, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Stopped
            return await work
        finally:
            await end((stop, work))

    async def close(self) -> None:
        """Cancel the loops that still run.

        Raises:
            Exception: the first failure of a loop.
        """
        await end(self._loops)
        for result in await asyncio.gather(*self._loops, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()):
            log.error("process.loop_failed", exc_info=exc)
            self._stop.set()


@contextlib.contextmanager
def listening(variable: str, host: str, port: int) -> Iterator[None]:
    """Start a listener in this context: if its address cannot be bound, the error names the setting to change.

    Raises:
        StartError: names the variable.
    """
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno).lower() if exc.errno and exc.errno > 0 else str(exc)
        raise StartError(f"{variable}: cannot listen on {host}:{port}: {reason}") from exc


def stop_on_signals(lifetime: Lifetime) -> None:
    """Drain on the first SIGINT or SIGTERM; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("process.stopping", signal=number.name)
        lifetime.stop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)


def share_interpreter() -> None:
    """Switch between the event loop's thread and database threads every 0.2 ms instead of 5.

    A database thread needs the interpreter several times per transaction, and a busy event loop makes it wait a whole
    interval each time.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def settle_memory() -> None:
    """Exclude what lives as long as the process from every later garbage collection."""
    gc.collect()
    gc.freeze()


def run_process(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end. Exits with 2 and one line if it cannot start, with 1 and a traceback if it fails later."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main)
    except (StartError, ChatflowError) as exc:
        refuse(str(exc))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def refuse(reason: str) -> NoReturn:
    """Exit with one line on stderr and code 2."""
    sys.stderr.write(f"chatflow: {visible(reason)}\n")
    sys.exit(EXIT_REFUSED)
