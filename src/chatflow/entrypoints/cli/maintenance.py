"""What the commands do that run beside the roles: migrate and audit. Each opens the database alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from chatflow.adapters.sql import migrate as migrations
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.rebuild import SqlSummaries
from chatflow.domain.auditing import AuditReport, InvalidLedger, audit, read_ledger
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common


def check_exists(url: str) -> None:
    """An embedded database must exist before a tool looks into it.

    Raises:
        StartError: it does not.
    """
    scheme, _, file = url.partition(":///")
    if scheme.startswith("sqlite") and not Path(file).exists():
        raise StartError(f"there is no database at {file}: set CHATFLOW_DATA_DIR or CHATFLOW_DATABASE_URL")


log = structlog.get_logger()


@contextlib.asynccontextmanager
async def opened(common: Common) -> AsyncIterator[Database]:
    """The database of these settings, with the schema that this program needs.

    Raises:
        StartError: an embedded database that does not exist.
        SchemaMismatch: it is older or newer.
    """
    check_exists(common.database_url)
    database = open_database(
        common.database_url, read_deadline_s=common.read_deadline_s, write_deadline_s=common.write_deadline_s
    )
    try:
        await migrations.check_schema(database)
        yield database
    finally:
        await database.close()


async def upgrade(common: Common) -> list[str]:
    """Bring the schema up to date, and summaries that a profile without them has left behind; what was done.

    Raises:
        SchemaMismatch: the schema is newer than this program.
    """
    done = await asyncio.to_thread(migrations.upgrade, common.database_url)
    if common.profile.summaries:
        async with opened(common) as database:
            done += await catch_up_summaries(SqlSummaries(database))
    return done


async def catch_up_summaries(tables: SqlSummaries) -> list[str]:
    """Recount the summary tables if messages were stored without them; says so."""
    if await tables.are_current():
        return []
    log.info("summaries.rebuilding")
    await tables.rebuild()
    log.info("summaries.rebuilt")
    return ["a recount of the summary tables"]


async def run_audit(common: Common, ledger: Path | None) -> AuditReport:
    """Audit the store, and the ledger against it.

    Raises:
        StartError: the ledger cannot be read.
    """
    async with opened(common) as database:
        auditor = SqlAuditor(database)
        if ledger is None:
            return await audit(auditor, summaries=common.profile.summaries)
        try:
            with ledger.open(encoding="utf-8") as lines:
                return await audit(auditor, summaries=common.profile.summaries, ledger=read_ledger(lines))
        except (OSError, UnicodeDecodeError, InvalidLedger) as exc:
            raise StartError(f"ledger {ledger} cannot be read: {exc}") from exc
