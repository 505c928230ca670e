"""What a long command does now, on stderr: one line that changes on a terminal, a line now and then elsewhere."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import attrs
from rich.console import Console

from chatflow.domain.resilience.tasks import end

TICK_S = 0.2
"""Between two changes of the line on a terminal."""
LINE_S = 5.0
"""Between two lines elsewhere; a command that takes less says nothing."""


@attrs.define
class Stage:
    """What is being done. A name that is set from another thread is shown at the next tick."""

    verb: str
    started_s: float = attrs.field(factory=time.monotonic)
    name: str = ""

    def begin(self, name: str) -> None:
        """From now on it is this."""
        self.name = name

    def __str__(self) -> str:
        return f"{self.verb} {self.name} ({time.monotonic() - self.started_s:.0f} s)"


@contextlib.asynccontextmanager
async def progress(
    verb: str, *, console: Console | None = None, line_s: float = LINE_S
) -> AsyncIterator[Callable[[str], None]]:
    """Show progress until the block ends; it gives the function that says what is done now."""
    stage = Stage(verb)
    where = console or Console(stderr=True, highlight=False, soft_wrap=True)
    ticking = asyncio.create_task(_on_terminal(where, stage) if where.is_terminal else _by_line(where, stage, line_s))
    try:
        yield stage.begin
    finally:
        await end((ticking,))


async def _on_terminal(console: Console, stage: Stage) -> None:
    with console.status(str(stage)) as status:
        while True:
            await asyncio.sleep(TICK_S)
            status.update(str(stage))


async def _by_line(console: Console, stage: Stage, line_s: float) -> None:
    while True:
        await asyncio.sleep(line_s)
        console.print(f"chatflow: {stage}", markup=False)
