"""Commands that maintain and audit the database."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from chatflow.entrypoints.cli.shared import add_row, common_settings, print_table
from chatflow.entrypoints.roles.process import run_process

commands = typer.Typer()


@commands.command()
def migrate() -> None:
    """Upgrade the database schema, and recount summary tables if a profile without them has run."""
    common = common_settings()
    from chatflow.entrypoints.cli.maintenance import upgrade

    applied = run_process(upgrade(common))
    typer.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


@commands.command()
def audit(
    ledger: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines of {"messageId","roomId","userId"}, one for each ack that a client got.',
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Check that sequences have no gaps, summaries are exact, and every ack of a ledger is stored once.

    Exit codes: 0 nothing is wrong, 1 the table lists what is wrong, 2 the audit could not run.
    """
    common = common_settings()
    from chatflow.entrypoints.cli.maintenance import run_audit

    report = run_process(run_audit(common, ledger))
    if report.findings:
        table = Table("check", "subject", "expected", "found")
        for finding in report.findings:
            add_row(table, finding.check, finding.subject, finding.expected, finding.found)
        print_table(table)
    typer.echo(
        f"audited {report.messages} messages and {report.acks} acks: {report.missing} missing, "
        f"{report.doubled} doubled, {report.misplaced} misplaced, {report.gaps} gaps, "
        f"{report.wrong_summaries} wrong summaries, {report.lost_commits} lost commits"
    )
    raise typer.Exit(0 if report.is_clean else 1)
