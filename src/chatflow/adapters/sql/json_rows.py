"""Fetch a whole result as one JSON value on SQLite.

Python's ``sqlite3`` gives the GIL up around every row it fetches. Beside a busy event loop a page of 1,000 rows can
then take seconds, so on SQLite the whole result is packed into one JSON row in C and decoded in C. MySQL's driver reads
rows from a socket buffer and has no such trouble.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import attrs
import msgspec
from sqlalchemy import Connection, Select, func, select
from sqlalchemy.dialects import sqlite

from chatflow.adapters.sql.schema import MessageId, id_of

Row = Sequence[Any]
V = TypeVar("V")

CHUNK = 500
"""Values per ``IN`` list."""

_decode = msgspec.json.Decoder(list[list[Any]]).decode


def fetch(conn: Connection, statement: Select[Any]) -> Sequence[Row]:
    """All rows of a statement that is built for this one call."""
    if conn.dialect.name != "sqlite":
        return conn.execute(statement).all()
    return _unpacked(conn.execute(_packed(statement)).scalar_one(), _id_columns(statement))


@attrs.define(eq=False)
class CompiledSelect:
    """A statement that never changes, with named parameters; on SQLite it is compiled once."""

    statement: Select[Any]
    _text: str = attrs.field(init=False)
    _constants: dict[str, Any] = attrs.field(init=False)
    _ids: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        compiled = _packed(self.statement).compile(dialect=sqlite.dialect(paramstyle="named"))
        self._text = str(compiled)
        self._constants = dict(compiled.params)
        self._ids = _id_columns(self.statement)

    def rows(self, conn: Connection, **params: Any) -> Sequence[Row]:
        """All rows for these parameters."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.statement, params).all()
        packed = conn.exec_driver_sql(self._text, self._constants | params).scalar_one()
        return _unpacked(packed, self._ids)


def chunks(values: Sequence[V]) -> Iterator[Sequence[V]]:
    """The values in lists short enough for one statement."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def _packed(statement: Select[Any]) -> Select[Any]:
    page = statement.subquery("page")
    cells = [func.lower(func.hex(column)) if isinstance(column.type, MessageId) else column for column in page.c]
    return select(func.json_group_array(func.json_array(*cells))).select_from(page)


def _id_columns(statement: Select[Any]) -> tuple[int, ...]:
    columns = enumerate(statement.selected_columns)
    return tuple(place for place, column in columns if isinstance(column.type, MessageId))


def _unpacked(packed: str, id_columns: tuple[int, ...]) -> Sequence[Row]:
    rows = _decode(packed)
    for place in id_columns:
        for row in rows:
            row[place] = id_of(row[place])
    return rows
