"""Summary tables after a profile without them has stored messages."""

import structlog

from chatflow.adapters.sql.rebuild import SqlSummaries

log = structlog.get_logger()


async def catch_up_summaries(tables: SqlSummaries) -> bool:
    """Recount the summary tables if messages were stored without them; returns whether it did."""
    if await tables.are_current():
        return False
    log.info("summaries.rebuilding")
    await tables.rebuild()
    log.info("summaries.rebuilt")
    return True
