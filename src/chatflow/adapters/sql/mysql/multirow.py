"""Many rows in one statement, in the fastest form that the server has.

MariaDB takes them in binary form through one prepared statement of a single row (its bulk protocol). MySQL has no such
thing, so there the statement is rendered as text. Rows from outside are checked first: the binary protocol would
store ``str()`` of whatever it is given. See docs/adr/0009.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection
from sqlalchemy.dialects.mysql.dml import Insert
from sqlalchemy.types import TypeEngine

from chatflow.adapters.sql.compat import escape_string
from chatflow.adapters.sql.schema import EpochMicros, MessageId
from chatflow.ports.errors import RowRejected

BoundRow = tuple[Any, ...]

PACKET_KEY = "max_allowed_packet"
"""Key in a connection's ``info`` of the longest statement that its server takes, in bytes."""
PACKET_BYTES = 2**20
"""The limit if it is not known."""
CHARACTER_BYTES = 4
"""At most, whether encoded or escaped."""
VALUE_BYTES = 40
"""At most, around each value: an id in hexadecimal, a number, quotes, lengths."""
STATEMENT_BYTES = 4_096
INT64 = range(-(2**63), 2**63)

LITERALS: dict[type, Callable[[Any], str]] = {
    int: str,
    str: lambda value: f"'{escape_string(value)}'",
    bytes: lambda value: f"x'{value.hex()}'",
}


@attrs.frozen
class MultiRow:
    """An ``INSERT ... VALUES`` of one row with ``%s`` for each value, given in three parts.

    Attributes:
        columns: name and Python type of each value.
    """

    columns: tuple[tuple[str, type], ...]
    head: str
    row: str
    tail: str

    @classmethod
    def of(cls, statement: Insert, dialect: Any) -> "MultiRow":
        """Take a statement apart whose ``VALUES`` bind one parameter per column."""
        compiled = statement.compile(dialect=dialect)
        head, values, rest = str(compiled).partition(" VALUES ")
        merging = " AS new ON DUPLICATE" if " AS new ON DUPLICATE" in rest else " ON DUPLICATE"
        row, clause, tail = rest.partition(merging)
        columns = tuple((column.name, python_type(column.type)) for column in statement.table.columns)
        return cls(columns, head + values, row, clause + tail)

    def run(self, conn: Connection, rows: Sequence[BoundRow]) -> None:
        """Send rows that were checked, in several statements only where the server's packet limit asks for it."""
        text = self.head + self.row + self.tail
        for part in split(rows, packet_bytes(conn)):
            if takes_rows_in_binary(conn.dialect):
                conn.exec_driver_sql(text, list(part))
            else:
                conn.exec_driver_sql(self.rendered(part), execution_options={"no_parameters": True})

    def rendered(self, rows: Sequence[BoundRow]) -> str:
        """The statement as text, values included."""
        template = self.row
        values = (template % tuple([literal(value) for value in row]) for row in rows)
        return self.head + ", ".join(values) + self.tail

    def check(self, rows: Sequence[BoundRow]) -> None:
        """Pass only rows that would be stored unchanged.

        Raises:
            RowRejected: a value is not of its column's type, or nothing that can be sent.
        """
        for (name, kind), column in zip(self.columns, zip(*rows, strict=True), strict=True):
            wrong = set(map(type, column)) - {kind}
            if wrong:
                raise RowRejected(f"{name}: cannot store {', '.join(sorted(each.__name__ for each in wrong))}")
            if kind is str:
                _check_characters(name, column)
            elif kind is int and (min(column) not in INT64 or max(column) not in INT64):
                raise RowRejected(f"{name}: a number is out of range")


def literal(value: Any) -> str:
    """The value as an SQL literal."""
    return LITERALS[type(value)](value)


def packet_bytes(conn: Connection) -> int:
    """The longest statement that the server takes."""
    return int(conn.info.get(PACKET_KEY, PACKET_BYTES))


def takes_rows_in_binary(dialect: Any) -> bool:
    """Whether the server has the bulk protocol."""
    return bool(dialect.is_mariadb)


def python_type(column_type: TypeEngine[Any]) -> type:
    """What a value is when it gets here: an id has become bytes, a moment is still a number of microseconds."""
    if isinstance(column_type, MessageId):
        return bytes
    return int if isinstance(column_type, EpochMicros) else column_type.python_type


def _check_characters(name: str, column: tuple[str, ...]) -> None:
    try:
        "".join(column).encode()
    except UnicodeEncodeError as exc:
        raise RowRejected(f"{name}: {exc.reason}") from None


def split(rows: Sequence[BoundRow], limit_bytes: int) -> Iterator[Sequence[BoundRow]]:
    """The rows in order, halved until each part fits."""
    if len(rows) > 1 and size_bound(rows) > limit_bytes:
        middle = len(rows) // 2
        yield from split(rows[:middle], limit_bytes)
        yield from split(rows[middle:], limit_bytes)
    elif rows:
        yield rows


def size_bound(rows: Sequence[BoundRow]) -> int:
    """An upper bound in bytes for a statement with these rows."""
    characters = sum(len("".join(column)) for column in zip(*rows, strict=True) if type(column[0]) is str)
    return STATEMENT_BYTES + CHARACTER_BYTES * characters + VALUE_BYTES * len(rows) * len(rows[0])
