"""One message, and one dead letter, per message id and sender: nobody's id takes another's place. See docs/adr/0023.

On a server this runs while processors of the old and of the new version write: the new key is added before the old one
is dropped, and either alone refuses a message that is stored. A run that was cut short can be repeated. SQLite cannot
drop a key that stands in its table's definition, so there the table is copied, in one transaction.
"""

import json
import re
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = "messages", "dead_letter_messages"
OLD, NEW = "uq_{}_message_id", "uq_{}_sender_message_id"
KEY = ["message_id", "user_id"]
ONLINE = "ALGORITHM=INPLACE, LOCK=NONE"
HOLDING_WRITERS = "ALGORITHM=INPLACE, LOCK=SHARED"
NOT_ONLINE = frozenset({1062, 1799, 1845, 1846})
"""A row that another transaction inserted and took back looked like a duplicate; too much was written meanwhile; the
server cannot. Holding writers back for as long as it takes avoids all of them."""
USER_ID_CHARS = 64
CHUNK = 500


def upgrade() -> None:
    _add_senders_of_dead_letters()
    for table in TABLES:
        _replace_key(table, NEW.format(table), KEY, OLD.format(table))


def downgrade() -> None:
    """Fails where two users have used one id."""
    for table in TABLES:
        _replace_key(table, OLD.format(table), ["message_id"], NEW.format(table))
    op.drop_column("dead_letter_messages", "user_id")


def _add_senders_of_dead_letters() -> None:
    """As text, since what cannot be stored may have a sender that is no number."""
    conn = op.get_bind()
    if "user_id" not in {column["name"] for column in sa.inspect(conn).get_columns("dead_letter_messages")}:
        text = sa.String(USER_ID_CHARS).with_variant(
            mysql.VARCHAR(USER_ID_CHARS, charset="ascii", collation="ascii_bin"), "mysql"
        )
        op.add_column("dead_letter_messages", sa.Column("user_id", text, nullable=False, server_default=""))
    letters = sa.table("dead_letter_messages", *map(sa.column, ("id", "user_id", "message_json")))
    after = 0
    while rows := conn.execute(_page(letters, after)).all():
        for number, original in rows:
            conn.execute(sa.update(letters).where(letters.c.id == number).values(user_id=_sender_in(original)))
        after = rows[-1][0]


def _page(letters: sa.TableClause, after: int) -> sa.Select[tuple[int, str]]:
    wanted = sa.select(letters.c.id, letters.c.message_json)
    return wanted.where(letters.c.user_id == "", letters.c.id > after).order_by(letters.c.id).limit(CHUNK)


def _sender_in(original: str) -> str:
    try:
        sender = str(json.loads(original)["user_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return sender.encode("ascii", "backslashreplace").decode()[:USER_ID_CHARS]


def _replace_key(table: str, new: str, columns: Sequence[str], old: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        if not _copied_without(table, old):
            op.drop_index(old, table, if_exists=True)
        op.create_index(new, table, columns, unique=True, if_not_exists=True)
        return
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    if new not in there:
        _alter(table, f"ADD UNIQUE INDEX {new} ({', '.join(columns)})")
    if old in there:
        _alter(table, f"DROP INDEX {old}")


def _alter(table: str, change: str) -> None:
    try:
        op.execute(f"ALTER TABLE {table} {change}, {ONLINE}")
    except sa.exc.DBAPIError as exc:
        if exc.orig is None or exc.orig.args[0] not in NOT_ONLINE:
            raise
        op.execute(f"ALTER TABLE {table} {change}, {HOLDING_WRITERS}")


def _copied_without(table: str, key: str) -> bool:
    """Copy a SQLite table whose definition holds ``key``, in the order of its primary key; whether it does."""
    conn = op.get_bind()
    definition = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).scalar_one()
    left, found = re.subn(rf",\s*CONSTRAINT {key} UNIQUE \(message_id\)", "", definition)
    if not found:
        return False
    indexes = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type = 'index'", (table,))
    kept = [sql for (sql,) in indexes if sql]
    op.execute(re.sub(rf'^CREATE TABLE "?{table}"?', f"CREATE TABLE {table}_copy", left))
    op.execute(f"INSERT INTO {table}_copy SELECT * FROM {table}")  # noqa: S608 - constants
    op.drop_table(table)
    op.rename_table(f"{table}_copy", table)
    for sql in kept:
        op.execute(sql)
    return True
