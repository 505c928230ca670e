"""Rows of ``messages`` by their keys: one look-up each in the unique index, however many users share a message id."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection, Select, text, tuple_

from chatflow.adapters.sql.json_rows import CompiledSelect, Row, chunks
from chatflow.adapters.sql.schema import MAX_USER_ID, key_of, messages
from chatflow.ports.messages import MessageKey


@attrs.define(eq=False)
class KeyedSelect:
    """A statement over ``messages``, restricted to keys.

    SQLite scans the table for ``IN (VALUES ...)`` and searches it for ``IN (SELECT ...)``. There the statement has a
    constant text for each power of two of keys, so that each is compiled once.
    """

    statement: Select[Any]
    _compiled: dict[int, CompiledSelect] = attrs.field(factory=dict, init=False)

    def rows(self, conn: Connection, keys: Sequence[MessageKey]) -> Iterator[Row]:
        """The rows that are there; what cannot be a key is not stored."""
        for chunk in chunks([key for key in keys if is_id(key[0]) and 1 <= key[1] <= MAX_USER_ID]):
            if conn.dialect.name == "sqlite":
                yield from self._on_sqlite(conn, chunk)
            else:
                has_key = tuple_(messages.c.message_id, messages.c.user_id).in_(chunk)
                yield from conn.execute(self.statement.where(has_key))

    def _on_sqlite(self, conn: Connection, keys: Sequence[MessageKey]) -> Sequence[Row]:
        size = 1 << (len(keys) - 1).bit_length()
        compiled = self._compiled.get(size)
        if compiled is None:
            compiled = self._compiled[size] = CompiledSelect(self.statement.where(text(_has_one_of(size))))
        values: dict[str, Any] = {f"{name}{place}": None for place in range(len(keys), size) for name in "iu"}
        for place, (message_id, user_id) in enumerate(keys):
            values |= {f"i{place}": key_of(message_id), f"u{place}": user_id}
        return compiled.rows(conn, **values)


def _has_one_of(size: int) -> str:
    wanted = ", ".join(f"(:i{place}, :u{place})" for place in range(size))
    return f"(messages.message_id, messages.user_id) IN (SELECT * FROM (VALUES {wanted}))"  # noqa: S608 - constants


def is_id(message_id: str) -> bool:
    """Whether this could be the id of a row."""
    try:
        key_of(message_id)
    except ValueError:
        return False
    return True
