"""The command line. Each command reads the settings first: a wrong one is one line and exit code 2.

The roles are imported by the command that runs them, so that every other command answers at once.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chatflow import __version__
from chatflow.domain.persistence.replay import Outcome
from chatflow.entrypoints.logs import LogFormat, configure_logs
from chatflow.entrypoints.roles.process import refuse, run_process
from chatflow.entrypoints.settings import Common, Settings, Start, describe, load_settings
from chatflow.entrypoints.settings.environment import SettingsError

WIDE = 160
"""Columns of a table that no terminal shows."""
JSON = typer.Option("--json", help="As a JSON array.")

app = typer.Typer(
    name="chatflow",
    help="Durable, room-ordered chat: an acknowledged message is never lost, doubled or reordered.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
dlq = typer.Typer(help="Dead letters: messages that the store refuses.", no_args_is_help=True)
app.add_typer(dlq, name="dlq")


@app.command()
def up() -> None:
    """Start everything in one process: gateway, processor and api, embedded by default."""
    from chatflow.entrypoints.up import up as run

    run_process(run(_settings()))


@app.command()
def gateway() -> None:
    """Start a gateway: WebSocket entry and live delivery."""
    _role("gateway")


@app.command()
def processor() -> None:
    """Start a processor: consume, persist, invalidate, publish live."""
    _role("processor")


@app.command()
def api() -> None:
    """Start the REST read side and the web pages."""
    _role("api")


@app.command()
def migrate() -> None:
    """Bring the database schema, and summary tables left behind by a profile without them, up to date."""
    from chatflow.entrypoints.cli.maintenance import upgrade

    applied = run_process(upgrade(_common()))
    typer.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


@app.command()
def config() -> None:
    """Show the effective settings, passwords masked."""
    table = Table("variable", "value", "from")
    for variable, value, source in describe(_settings()):
        table.add_row(variable, value, source)
    _print(table)


@app.command()
def audit(
    ledger: Annotated[
        Path | None,
        typer.Option(help='JSON lines of {"messageId","roomId"}: every ack that clients got.', metavar="FILE"),
    ] = None,
) -> None:
    """Recount everything: sequences gapless, summaries exact, and each ack of a ledger stored once.

    Exit code 0: nothing is wrong. 1: a table says what is. 2: the audit could not be made.
    """
    from chatflow.entrypoints.cli.maintenance import run_audit

    report = run_process(run_audit(_common(), ledger))
    if report.findings:
        table = Table("check", "subject", "expected", "found")
        for finding in report.findings:
            table.add_row(finding.check, finding.subject, finding.expected, finding.found)
        _print(table)
    typer.echo(
        f"audited {report.messages} messages and {report.acks} acks: {report.missing} missing, "
        f"{report.doubled} doubled, {report.misplaced} misplaced, {report.gaps} gaps, "
        f"{report.wrong_summaries} wrong summaries, {report.lost_commits} lost commits"
    )
    raise typer.Exit(0 if report.is_clean else 1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"chatflow {__version__}")


@dlq.command("list")
def dlq_list(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many of each source, oldest first.")] = 100,
    resolved: Annotated[bool, typer.Option("--resolved", help="Those that were replayed, too.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List dead letters of the database and of the broker, oldest first.

    Exit code 0: these are all. 1: the broker could not be read, and its dead letters are missing.
    """
    from chatflow.entrypoints.cli.dead_letters import list_dead

    listing = run_process(list_dead(_common(), limit=limit, include_resolved=resolved))
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in listing.rows], indent=2))
    elif listing.rows:
        table = Table("id", "source", "message id", "created", "tries", "resolved", "reason")
        for row in listing.rows:
            state, tries = "yes" if row.resolved else "no", str(row.retry_count)
            table.add_row(row.id, row.source, _ids(row.message_ids), row.created_at, tries, state, escape(row.reason))
        _print(table)
    elif not listing.unread:
        typer.echo("no dead letters")
    if listing.unread:
        typer.echo(f"chatflow: the broker's dead letters are not shown: {listing.unread}", err=True)
        raise typer.Exit(1)


@dlq.command("show")
def dlq_show(letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dlq list` shows it.")]) -> None:
    """Show one dead letter with its original, as JSON."""
    from chatflow.entrypoints.cli.dead_letters import show_dead

    typer.echo(json.dumps(run_process(show_dead(_common(), letter_id)), indent=2))


@dlq.command("replay")
def dlq_replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `dlq list` shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are not resolved.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Publish dead letters again, with their original ids; what is stored already stays as it is.

    Without a broker of its own, the embedded default, they are stored directly. What is published and refused once
    more is a dead letter again: `dlq list` shows it.

    Exit code 0: all are published, or stored. 1: some were refused. 2: a server went away before all were tried.
    """
    from chatflow.entrypoints.cli.dead_letter_views import name_of, replayed_as_json, told
    from chatflow.entrypoints.cli.dead_letters import replay_dead

    if bool(ids) == every:
        refuse("name the dead letters to replay, or --all")
    replays = run_process(replay_dead(_common(), ids or []))
    counts = Counter(result.outcome for result in replays.results)
    if as_json:
        typer.echo(json.dumps([replayed_as_json(result) for result in replays.results], indent=2))
    else:
        for result in replays.results:
            typer.echo(f"{name_of(result.dead)} {_ids(result.message_ids)} {told(result)}")
        typer.echo(f"{counts[replays.done]} {replays.done}, {counts[Outcome.REFUSED]} refused")
    if replays.failure:
        refuse(f"not all were tried: {replays.failure}")
    raise typer.Exit(1 if counts[Outcome.REFUSED] else 0)


def main() -> None:
    """The ``chatflow`` script."""
    app()


def _settings(start: Start = "up") -> Settings:
    try:
        settings = load_settings(start)
    except SettingsError as exc:
        refuse(str(exc))
    configure_logs(level=settings.common.log_level, fmt=cast("LogFormat", settings.common.log_format))
    return settings


def _common() -> Common:
    return _settings().common


def _role(role: Literal["gateway", "processor", "api"]) -> None:
    settings = _settings(role)
    from chatflow.entrypoints.serving import serve_roles

    run_process(serve_roles(settings, (role,)))


def _ids(message_ids: Sequence[str]) -> str:
    """The messages of a dead letter in a few words."""
    if not message_ids:
        return "unreadable"
    return message_ids[0] or "no id" if len(message_ids) == 1 else f"{len(message_ids)} messages"


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)
