"""What ``chatflow migrate`` and ``chatflow audit`` do."""

import asyncio
from functools import partial
from pathlib import Path

from chatflow.adapters.sql import migrate as migrations
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.rebuild import SqlSummaries
from chatflow.domain.auditing import AuditReport, InvalidLedger, audit, read_ledger
from chatflow.entrypoints.cli.database import open_existing
from chatflow.entrypoints.cli.progress import progress
from chatflow.entrypoints.data_directory import in_use
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common
from chatflow.entrypoints.summaries import catch_up_summaries


async def upgrade(common: Common) -> list[str]:
    """Bring the schema up to date, and the summaries if a profile without them has stored messages.

    Returns what was done, for people.

    Raises:
        StartError: the database file is in use.
        SchemaMismatch: the schema is newer than this program.
    """
    with in_use(common, alone=True):
        done = await asyncio.to_thread(migrations.upgrade, common.database_url)
        if common.profile.summaries:
            async with open_existing(common) as database:
                if await catch_up_summaries(SqlSummaries(database)):
                    done.append("a recount of the summary tables")
    return done


async def run_audit(common: Common, ledger: Path | None) -> AuditReport:
    """Audit the store, and the ledger against it.

    Raises:
        StartError: the ledger cannot be read.
    """
    async with open_existing(common) as database, progress("auditing") as started:
        check = partial(audit, SqlAuditor(database), summaries=common.profile.summaries, started=started)
        if ledger is None:
            return await check()
        try:
            with ledger.open(encoding="utf-8") as lines:
                return await check(ledger=read_ledger(lines))
        except (OSError, UnicodeDecodeError, InvalidLedger) as exc:
            raise StartError(f"ledger {ledger} cannot be read: {exc}") from exc
