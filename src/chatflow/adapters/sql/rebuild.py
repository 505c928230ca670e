"""Bring summary tables up to date after a profile without them: two sums find them stale, one transaction recounts.

A profile that keeps no summaries leaves the tables behind the messages, never ahead. Sequences have no gaps, so the
heads add up to all messages and the room totals to those that were counted; both are sums over rooms, not messages.
"""

import attrs
from sqlalchemy import Connection, delete, func, insert, select

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.schema import messages, room_heads, room_message_summary
from chatflow.adapters.sql.summaries import TABLES, grouped


@attrs.frozen
class SqlSummaries:
    """Check and recount the summary tables."""

    database: Database

    async def are_current(self) -> bool:
        """Whether every message has been counted.

        Raises:
            StoreUnavailable: not known.
        """
        return await self.database.read(are_current)

    async def rebuild(self) -> None:
        """Recount everything; commits of others wait until it is done.

        Raises:
            StoreUnavailable: nothing has changed.
        """
        await self.database.write_unbounded(rebuild)


def are_current(conn: Connection) -> bool:
    """Compare both sums in one statement, and so on one snapshot."""
    stored = select(func.coalesce(func.sum(room_heads.c.last_seq), 0)).scalar_subquery()
    counted = select(func.coalesce(func.sum(room_message_summary.c.total_messages), 0)).scalar_subquery()
    row = conn.execute(select(stored, counted)).one()
    return bool(row[0] == row[1])


def rebuild(conn: Connection) -> None:
    """Lock all heads, empty the tables, and fill them from the messages."""
    conn.execute(select(room_heads.c.room_id).order_by(room_heads.c.room_id).with_for_update()).all()
    for table in TABLES:
        conn.execute(delete(table))
        rows = grouped(table, conn.dialect.name, messages, None, fresh=False)
        conn.execute(insert(table).from_select([column.name for column in table.columns], rows))
