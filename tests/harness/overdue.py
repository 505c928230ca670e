"""A test that outlasts its timeout fails, and says where it waits; what was to run after it runs.

pytest-timeout raises an ordinary exception out of a signal handler, and uvloop logs those and goes on: a coroutine
that waits in vain would wait for ever. Nothing but an interrupt passes through a loop, so that is what is raised here,
and turned into a failure of this test before pytest takes it for its user's.
"""

import asyncio
import gc
import signal
import traceback
from collections.abc import Iterator
from types import FrameType

import pytest
import pytest_timeout

SHOWN_FRAMES = 8


class Overdue(KeyboardInterrupt):
    """A test has timed out; the message says what is running and what each task waits for."""


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool | None:
    """Replaces pytest-timeout's timer; returning True keeps it from being set."""
    if settings.method != "signal":
        return None

    def end(_signal: int, frame: FrameType | None) -> None:
        running = "".join(traceback.format_stack(frame, SHOWN_FRAMES))
        raise Overdue(f"took more than {settings.timeout:g} s\nrunning:\n{running}{''.join(_waiting())}")

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # where pytest-timeout looks for it
    signal.signal(signal.SIGALRM, end)
    # Repeatedly: an exception raised inside a finaliser is lost, and the clean-up may hang as well.
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, settings.timeout)
    return True


def _waiting() -> Iterator[str]:
    """The await chain of every task of every loop, innermost frame last."""
    # By `type`: `isinstance` asks a weak proxy for the class of what it stands for, which may be gone.
    for loop in [found for found in gc.get_objects() if issubclass(type(found), asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop):
            yield f"{task.get_name()}:\n"
            waiting: object = task.get_coro()
            while (frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)) is not None:
                yield f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}\n"
                waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)


def _failing() -> Iterator[None]:
    try:
        yield
    except Overdue as overdue:
        pytest.fail(str(overdue), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """A fixture that hangs fails its test."""
    yield from _failing()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that hangs fails."""
    yield from _failing()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """A clean-up that hangs fails its test."""
    yield from _failing()
