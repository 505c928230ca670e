import io

import pytest
from rich.console import Console

from chatflow.entrypoints.cli.progress import progress
from tests.harness.waiting import eventually


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_what_is_done_now_is_shown(is_terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=is_terminal, width=80)
    async with progress("auditing", console=console, line_s=0.001) as begin:
        begin("heads")
        await eventually(lambda: "auditing heads (0 s)" in shown.getvalue())
        begin("summaries")
        await eventually(lambda: "auditing summaries (" in shown.getvalue())


async def test_what_takes_no_time_says_nothing_where_nobody_watches() -> None:
    shown = io.StringIO()
    async with progress("auditing", console=Console(file=shown)) as begin:
        begin("heads")
    assert shown.getvalue() == ""
