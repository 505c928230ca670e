"""What commands share: they read the settings before anything else, and print tables that can be piped."""

import re
from typing import cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatflow.entrypoints.logs import LogFormat, configure_logs
from chatflow.entrypoints.roles.process import refuse
from chatflow.entrypoints.settings import Common, Settings, SettingsError, Start, load_settings
from chatflow.entrypoints.terminal import visible

PIPE_WIDTH = 160
"""Columns of a table that is not shown on a terminal."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)


def settings_for(start: Start) -> Settings:
    """The settings, with logging configured; exits with one line and code 2 if they are wrong."""
    try:
        settings = load_settings(start)
    except SettingsError as exc:
        refuse(str(exc))
    configure_logs(level=settings.common.log_level, fmt=cast("LogFormat", settings.common.log_format))
    return settings


def common_settings() -> Common:
    """The common settings, for a command that is not a role."""
    return settings_for("tool").common


def seconds_of(option: str, duration: str) -> int:
    """The seconds in a duration such as ``15m``; exits with one line and code 2 if it is none."""
    found = DURATION.fullmatch(duration)
    if found is None:
        refuse(f"{option} must be a number and a unit, such as 90s, 15m, 1h or 7d (it is {duration!r})")
    return int(found[1]) * UNITS[found[2]]


def add_row(table: Table, *cells: str | None) -> None:
    """A row of texts as they are: no markup, and nothing that steers a terminal."""
    table.add_row(*(Text(visible(cell or "")) for cell in cells))


def print_table(table: Table) -> None:
    """As wide as the terminal, or `PIPE_WIDTH`."""
    console = Console()
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(table)
