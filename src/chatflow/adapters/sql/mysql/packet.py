"""Several statements in one packet, for transactions so small that round trips are most of their cost.

The server runs them one after the other and stops at the first that fails. They go to the driver itself: what
SQLAlchemy does for a statement costs as much again as sending it, and it knows nothing of a second answer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from asyncmy.errors import MySQLError
from sqlalchemy import Connection

from chatflow.adapters.sql.compat import Rows
from chatflow.adapters.sql.errors import is_of_the_statement
from chatflow.adapters.sql.mysql.proven import COMMIT, beginning, ended, packets_of
from chatflow.ports.errors import StoreUnavailable

R = TypeVar("R")


def run_together(conn: Connection, statements: Sequence[str]) -> list[Rows]:
    """Run statements that have their values in them; the rows of each, none for those that answer with none.

    The first packet of a transaction begins it.

    Raises:
        MySQLError: the server refused one of them; the transaction is still open.
        StoreUnavailable: the outcome is unknown, and the connection is not used again.
        UnicodeEncodeError: nothing was sent.
    """
    first = beginning(conn.info)
    return _packet(conn, packets_of(conn.info).run, (*first, *statements))[len(first) :]


def commit_together(conn: Connection, statements: Sequence[str]) -> None:
    """Run statements without rows as `run_together` does, and commit the transaction that was begun and no other.

    Nothing may follow in it. If the server refuses one of them, the transaction is still open.
    """
    _packet(conn, packets_of(conn.info).send, (*beginning(conn.info), *statements, *COMMIT))
    ended(conn.info)


def _packet(conn: Connection, run: Callable[[Any, Sequence[str]], R], packet: Sequence[str]) -> R:
    "".join(packet).encode()  # the driver would make bytes of anything
    try:
        return run(conn.connection.dbapi_connection, packet)
    except MySQLError as exc:
        if not is_of_the_statement(exc):
            conn.invalidate(exc)
        raise
    except Exception as exc:  # noqa: BLE001 - a broken connection shows itself in many ways
        _give_up(conn, exc)
    except BaseException:
        conn.invalidate()
        raise


def _give_up(conn: Connection, error: Exception) -> NoReturn:
    conn.invalidate(error)
    raise StoreUnavailable(str(error)) from error
