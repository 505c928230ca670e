"""Messages that no retry can store, as the JSON they came in, until somebody replays them."""

from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import Connection, Select, case, insert, literal, null, select, update
from sqlalchemy.dialects import mysql, sqlite

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.json_rows import Row, fetch
from chatflow.adapters.sql.schema import EpochMicros
from chatflow.adapters.sql.schema import dead_letter_messages as dead_letters
from chatflow.domain.persistence.replay import message_to_json
from chatflow.ports.clock import WallClock
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter

ID_LENGTH = 255
USER_ID_LENGTH = 64
REASON_LENGTH = 1000


def add_dead_letter(conn: Connection, message: Message, reason: str, now_us: int) -> None:
    """Keep one letter per message id and user; one that was resolved and has come back is open again.

    The time of its return tells whoever has just replayed it that it must not be resolved.
    """
    message_id = _ascii(str(message.message_id))[:ID_LENGTH] or None
    letter = {
        "message_id": message_id,
        "message_json": message_to_json(message),
        "error_reason": reason.encode("utf-8", "backslashreplace").decode()[:REASON_LENGTH],
        "retry_count": 0,
        "created_at": now_us,
        "resolved": False,
        "user_id": _ascii(str(message.user_id))[:USER_ID_LENGTH],
    }
    returned_at = case((dead_letters.c.last_retry.is_(None), null()), else_=literal(now_us, EpochMicros()))
    again = {"error_reason": letter["error_reason"], "resolved": False, "last_retry": returned_at}
    if message_id is None:
        conn.execute(insert(dead_letters).values(letter))
    elif conn.dialect.name == "sqlite":
        upsert = sqlite.insert(dead_letters).values(letter)
        conn.execute(upsert.on_conflict_do_update(index_elements=["message_id", "user_id"], set_=again))
    else:
        conn.execute(mysql.insert(dead_letters).values(letter).on_duplicate_key_update(again))


@attrs.frozen
class SqlDeadLetters:
    """``DeadLetters`` over ``dead_letter_messages``."""

    database: Database
    wall_clock: WallClock

    async def list_dead(self, *, limit: int, include_resolved: bool = False, after_id: int = 0) -> list[DeadLetter]:
        wanted = (
            select(dead_letters).where(dead_letters.c.id > after_id).order_by(dead_letters.c.id).limit(max(limit, 0))
        )
        if not include_resolved:
            wanted = wanted.where(dead_letters.c.resolved.is_(False))
        return await self.database.snapshot(_letters, wanted)

    async def get_dead(self, dead_letter_id: int) -> DeadLetter | None:
        found = await self.database.snapshot(_letters, select(dead_letters).where(dead_letters.c.id == dead_letter_id))
        return found[0] if found else None

    async def mark_retried(self, dead_letter_id: int, *, resolved: bool) -> None:
        await self.database.write(_mark_retried, dead_letter_id, resolved, self.wall_clock())

    async def resolve(self, letter: DeadLetter) -> bool:
        return await self.database.write(_resolve, letter)


def _mark_retried(conn: Connection, dead_letter_id: int, resolved: bool, now_us: int) -> None:
    counted = {"retry_count": dead_letters.c.retry_count + literal(1), "last_retry": now_us, "resolved": resolved}
    conn.execute(update(dead_letters).where(dead_letters.c.id == dead_letter_id).values(counted))


def _resolve(conn: Connection, letter: DeadLetter) -> bool:
    unchanged = (dead_letters.c.retry_count == letter.retry_count) & (dead_letters.c.last_retry == letter.last_retry_us)
    wanted = update(dead_letters).where(dead_letters.c.id == letter.id).where(unchanged)
    return conn.execute(wanted.values(resolved=True)).rowcount > 0


def _letters(conn: Connection, wanted: Select[Any]) -> list[DeadLetter]:
    return [_letter(row) for row in fetch(conn, wanted)]


def _letter(row: Row) -> DeadLetter:
    letter_id, message_id, message_json, reason, retry_count, created_at, last_retry, resolved, user_id = row
    return DeadLetter(
        letter_id, message_id or "", message_json, reason, retry_count, created_at, last_retry, bool(resolved), user_id
    )


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


if TYPE_CHECKING:
    from chatflow.ports.store import DeadLetters

    _: type[DeadLetters] = SqlDeadLetters
