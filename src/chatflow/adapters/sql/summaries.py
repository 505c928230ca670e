"""Summaries: group messages by key, and merge the groups into existing rows.

Merging is commutative, so the tables equal a recount in whatever order partitions commit: counts add up, times take the
later one, and a user's name is the one with the greatest ``(accepted_at, username)``. Tables come in one fixed order
and keys sorted, so that two writers cannot deadlock. Room summaries come first: they count the pairs of user and room
that ``user_room_summary`` does not hold yet.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    String,
    Table,
    and_,
    case,
    cast,
    distinct,
    exists,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.mysql.dml import Insert as MysqlInsert
from sqlalchemy.dialects.sqlite.dml import Insert as SqliteInsert

from chatflow.adapters.sql.schema import messages, room_message_summary, user_message_summary, user_room_summary

TABLES = (room_message_summary, user_room_summary, user_message_summary)


def grouped(
    table: Table, dialect: str, source: FromClause, condition: ColumnElement[bool] | None, *, fresh: bool = True
) -> Select[Any]:
    """What ``table`` should hold for the messages in ``source``, one row per key, in its column order.

    ``fresh`` counts only users that ``user_room_summary`` does not know in the room yet.
    """
    keys = [messages.c[column.name] for column in table.primary_key]
    statement = select(*keys, *_aggregates(table, dialect, fresh)).select_from(source).group_by(*keys)
    return statement if condition is None else statement.where(condition)


def _aggregates(table: Table, dialect: str, fresh: bool) -> list[ColumnElement[Any]]:
    count, latest = func.count(), func.max(messages.c.accepted_at)
    if table is room_message_summary:
        return [count, _new_users() if fresh else func.count(distinct(messages.c.user_id)), latest]
    if table is user_message_summary:
        return [latest_username(dialect), count, latest]
    return [count, latest]


def _new_users() -> ColumnElement[int]:
    pair = user_room_summary.alias("pair")
    known = exists().where(pair.c.user_id == messages.c.user_id, pair.c.room_id == messages.c.room_id)
    return func.count(distinct(case((~known, messages.c.user_id))))


def latest_username(dialect: str) -> ColumnElement[str]:
    """The username with the greatest ``(accepted_at, username)`` of a group: both as one text, times at fixed width."""
    stamp: ColumnElement[str] = func.printf(literal_column("'%018d'"), messages.c.accepted_at)
    width = 18
    if dialect == "mysql":
        stamp, width = cast(messages.c.accepted_at, String(26)), 26
    return func.substr(func.max(stamp.concat(messages.c.username)), literal_column(str(width + 1)))


def upsert_on_sqlite(table: Table, rows: Select[Any]) -> SqliteInsert:
    """Insert the grouped rows in key order, adding to those that exist."""
    ordered = rows.order_by(*(messages.c[column.name] for column in table.primary_key))
    statement = sqlite.insert(table).from_select([column.name for column in table.columns], ordered)
    merged = _merged(table, statement.excluded, func.max)
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=dict(merged))


def merged_on_mysql(statement: MysqlInsert, table: Table) -> MysqlInsert:
    """Add a statement's rows to those that exist.

    MySQL assigns from left to right: the name is settled before the ``last_seen`` that decides on it moves.
    """
    return statement.on_duplicate_key_update(_merged(table, statement.inserted, func.greatest))


def _merged(table: Table, new: Any, later: Any) -> list[tuple[str, ColumnElement[Any]]]:
    assignments: list[tuple[str, ColumnElement[Any]]] = []
    for column in table.columns:
        if column.primary_key:
            continue
        if column.name == "username":
            assignments.append((column.name, case((_is_later(table, new), new.username), else_=column)))
        elif isinstance(column.type, BigInteger):
            assignments.append((column.name, column + new[column.name]))
        else:
            assignments.append((column.name, later(column, new[column.name])))
    return assignments


def _is_later(table: Table, new: Any) -> ColumnElement[bool]:
    same_moment = and_(new.last_seen == table.c.last_seen, new.username > table.c.username)
    return or_(new.last_seen > table.c.last_seen, same_moment)
