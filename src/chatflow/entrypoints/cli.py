"""The command line. Each command reads the settings first: a wrong one is one line and exit code 2.

The roles are imported by the command that runs them, so that every other command answers at once.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from chatflow import __version__
from chatflow.domain.times import format_timestamp
from chatflow.entrypoints.environment import SettingsError
from chatflow.entrypoints.logs import LogFormat, configure_logs
from chatflow.entrypoints.process import refuse, run_process
from chatflow.entrypoints.settings import Common, Role, UpSettings, describe, load_process_settings

WIDE = 160
"""Columns of a table that no terminal shows."""

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
    from chatflow.entrypoints.maintenance import upgrade

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
    from chatflow.entrypoints.maintenance import run_audit

    report = run_process(run_audit(_common(), ledger))
    if report.findings:
        table = Table("check", "subject", "expected", "found")
        for finding in report.findings:
            table.add_row(finding.check, finding.subject, finding.expected, finding.found)
        _print(table)
    typer.echo(
        f"audited {report.messages} messages and {report.acks} acks: {report.missing} missing, "
        f"{report.doubled} doubled, {report.misplaced} misplaced, {report.gaps} gaps, "
        f"{report.wrong_summaries} wrong summaries"
    )
    raise typer.Exit(0 if report.is_clean else 1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"chatflow {__version__}")


@dlq.command("list")
def dlq_list(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, oldest first.")] = 100,
    resolved: Annotated[bool, typer.Option("--resolved", help="Those that were replayed, too.")] = False,
) -> None:
    """List dead letters, oldest first."""
    from chatflow.entrypoints.maintenance import list_dead

    letters = run_process(list_dead(_common(), limit=limit, include_resolved=resolved))
    if not letters:
        typer.echo("no dead letters")
        return
    table = Table("id", "message id", "created", "tries", "resolved", "reason")
    for letter in letters:
        created = format_timestamp(letter.created_at_us)
        state = "yes" if letter.resolved else "no"
        table.add_row(str(letter.id), letter.message_id, created, str(letter.retry_count), state, letter.error_reason)
    _print(table)


@dlq.command("show")
def dlq_show(letter_id: Annotated[int, typer.Argument(metavar="ID", help="As `dlq list` shows it.")]) -> None:
    """Show one dead letter with its original, as JSON."""
    from chatflow.entrypoints.maintenance import show_dead

    letter = run_process(show_dead(_common(), letter_id))
    try:
        original = json.loads(letter.message_json)
    except ValueError:
        original = letter.message_json
    shown = {
        "id": letter.id,
        "messageId": letter.message_id,
        "reason": letter.error_reason,
        "createdAt": format_timestamp(letter.created_at_us),
        "retryCount": letter.retry_count,
        "lastRetry": None if letter.last_retry_us is None else format_timestamp(letter.last_retry_us),
        "resolved": letter.resolved,
        "original": original,
    }
    typer.echo(json.dumps(shown, indent=2))


@dlq.command("replay")
def dlq_replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Which ones.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are not resolved.")] = False,
) -> None:
    """Store dead letters again, with their original ids; what is stored already stays as it is.

    Exit code 0: all are stored. 1: the store refused some again.
    """
    from chatflow.entrypoints.maintenance import replay_dead

    if bool(ids) == every:
        refuse("name the dead letters to replay, or --all")
    results = run_process(replay_dead(_common(), ids or []))
    for result in results:
        outcome = f"refused again: {result.reason}" if result.seq is None else f"stored with seq {result.seq}"
        typer.echo(f"{result.letter.id} {result.letter.message_id} {outcome}")
    refused = sum(result.seq is None for result in results)
    typer.echo(f"{len(results) - refused} stored, {refused} refused")
    raise typer.Exit(1 if refused else 0)


def main() -> None:
    """The ``chatflow`` script."""
    app()


def _settings(role: Role = "up") -> UpSettings:
    try:
        settings = load_process_settings(role)
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


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)


if __name__ == "__main__":
    main()
