"""Revocations as rows. The newest row always stays, so that neither database gives its id away again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import Connection, delete, func, insert, select

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.schema import revocations
from chatflow.ports.revocations import Revocation, RevocationsFull


@attrs.frozen
class SqlRevocationLog:
    """`RevocationLog` over ``revocations``."""

    database: Database

    async def append(self, revocation: Revocation, *, limit: int) -> int:
        """See `RevocationLog.append`."""
        return await self.database.write(_append, revocation, limit)

    async def after(self, revocation_id: int, *, limit: int) -> Sequence[Revocation]:
        """See `RevocationLog.after`."""
        return await self.database.read(_after, revocation_id, limit)


def _append(conn: Connection, revocation: Revocation, limit: int) -> int:
    known = revocations.c
    row = {
        "user_id": revocation.user_id,
        "token_id": revocation.token_id,
        "revoked_at": revocation.revoked_at_us,
        "expires_at": revocation.expires_at_us,
        "revoked_by": revocation.by,
    }
    inserted = conn.execute(insert(revocations).values(row)).inserted_primary_key
    assert inserted is not None  # noqa: S101 - one row
    new_id: int = inserted[0]
    is_same = known.user_id.is_not_distinct_from(revocation.user_id) & known.token_id.is_not_distinct_from(
        revocation.token_id
    )
    is_no_later = (known.revoked_at <= revocation.revoked_at_us) & (known.expires_at <= revocation.expires_at_us)
    is_done = (is_same & is_no_later) | (known.expires_at <= revocation.revoked_at_us)
    conn.execute(delete(revocations).where(known.id < new_id, is_done))
    if conn.execute(select(func.count()).select_from(revocations)).scalar_one() > limit:
        raise RevocationsFull(limit)
    return new_id


def _after(conn: Connection, revocation_id: int, limit: int) -> list[Revocation]:
    wanted = select(revocations).where(revocations.c.id > revocation_id).order_by(revocations.c.id).limit(limit)
    return [
        Revocation(row.user_id, row.token_id, row.revoked_at, row.expires_at, row.revoked_by, row.id)
        for row in conn.execute(wanted)
    ]


if TYPE_CHECKING:
    from chatflow.ports.revocations import RevocationLog

    _: type[RevocationLog] = SqlRevocationLog
