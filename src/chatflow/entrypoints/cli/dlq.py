"""``chatflow dlq``: list, show and replay dead letters."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from chatflow.domain.persistence.replay import Outcome
from chatflow.entrypoints.cli.shared import add_row, common_settings, print_table
from chatflow.entrypoints.roles.process import refuse, run_process
from chatflow.entrypoints.terminal import visible

JSON = typer.Option("--json", help="Print a JSON array.")

commands = typer.Typer(
    help="List, show and replay dead letters: messages that could not be stored.", no_args_is_help=True
)


@commands.command("list")
def dlq_list(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show at most this many of each source.")] = 100,
    resolved: Annotated[bool, typer.Option("--resolved", help="Include those that were replayed.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List dead letters of the database and of the broker, oldest first.

    Exit codes: 0 the list is complete, 1 the broker could not be read and its dead letters are missing.
    """
    from chatflow.entrypoints.cli.dead_letters import list_dead

    listing = run_process(list_dead(common_settings(), limit=limit, include_resolved=resolved))
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in listing.rows], indent=2))
    elif listing.rows:
        table = Table("id", "source", "message id", "created", "tries", "resolved", "reason")
        for row in listing.rows:
            state, tries = "yes" if row.resolved else "no", str(row.retry_count)
            add_row(table, row.id, row.source, _ids(row.message_ids), row.created_at, tries, state, row.reason)
        print_table(table)
    elif not listing.unread:
        typer.echo("no dead letters")
    if listing.unread:
        typer.echo(f"chatflow: the broker's dead letters are not shown: {visible(listing.unread)}", err=True)
        raise typer.Exit(1)


@commands.command("show")
def dlq_show(dead_letter_id: Annotated[str, typer.Argument(metavar="ID", help="An id from `dlq list`.")]) -> None:
    """Show one dead letter with its original, as JSON."""
    from chatflow.entrypoints.cli.dead_letters import show_dead

    typer.echo(json.dumps(run_process(show_dead(common_settings(), dead_letter_id)), indent=2))


@commands.command("replay")
def dlq_replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids from `dlq list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Replay all that are not resolved.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Publish dead letters again with their original ids. What is stored already is not stored twice.

    With the embedded default they go to the running `chatflow up`, or straight to its database while it is stopped.
    What is published and refused once more is a dead letter again: `dlq list` shows it.

    Exit codes: 0 all are published or stored, 1 some were refused, 2 a server went away before all were tried.
    """
    from chatflow.entrypoints.cli.dead_letter_views import name_of, outcome_text, replayed_as_json
    from chatflow.entrypoints.cli.dead_letters import replay_dead

    if bool(ids) == every:
        refuse("name the dead letters to replay, or --all")
    replays = run_process(replay_dead(common_settings(), ids or []))
    counts = Counter(result.outcome for result in replays.results)
    if as_json:
        typer.echo(json.dumps([replayed_as_json(result) for result in replays.results], indent=2))
    else:
        for result in replays.results:
            typer.echo(visible(f"{name_of(result.dead)} {_ids(result.message_ids)} {outcome_text(result)}"))
        typer.echo(f"{counts[replays.done]} {replays.done}, {counts[Outcome.REFUSED]} refused")
    if replays.failure:
        refuse(f"not all were tried: {replays.failure}")
    raise typer.Exit(1 if counts[Outcome.REFUSED] else 0)


def _ids(message_ids: Sequence[str]) -> str:
    """The message ids of a dead letter, short enough for a table."""
    if not message_ids:
        return "unreadable"
    return message_ids[0] or "no id" if len(message_ids) == 1 else f"{len(message_ids)} messages"
