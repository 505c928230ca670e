"""Several statements in one packet, for transactions so small that most of their price is the way to the server.

The server runs them one after the other and stops at the first that fails. They go to the driver itself: what
SQLAlchemy does for a statement costs as much again as sending it, and it knows nothing of a second answer.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from asyncmy.errors import MySQLError
from sqlalchemy import Connection

from chatflow.adapters.sql.errors import is_of_the_statement
from chatflow.ports.errors import StoreUnavailable

Rows = Sequence[Any]


def run_together(conn: Connection, statements: Sequence[str]) -> list[Rows]:
    """Run statements that have their values in them; the rows of each, none for those that answer with none.

    Raises:
        MySQLError: the server refused one of them; the transaction is still open.
        StoreUnavailable: the outcome is unknown, and the connection is not used again.
        UnicodeEncodeError: nothing was sent.
    """
    text = "; ".join(statements)
    text.encode()  # the driver would make bytes of anything
    try:
        results: list[Rows] = conn.connection.dbapi_connection.run_async(  # type: ignore[union-attr]
            lambda driver: _run(driver, text, len(statements))
        )
    except MySQLError as exc:
        if not is_of_the_statement(exc):
            conn.invalidate(exc)
        raise
    except Exception as exc:  # noqa: BLE001 - a broken connection shows itself in many ways
        _give_up(conn, exc)
    except BaseException:
        conn.invalidate()
        raise
    return results


def _give_up(conn: Connection, error: Exception) -> NoReturn:
    conn.invalidate(error)
    raise StoreUnavailable(str(error)) from error


async def _run(driver: Any, text: str, count: int) -> list[Rows]:
    cursor = driver.cursor()
    await cursor.execute(text)
    results = [await cursor.fetchall()]
    for _ in range(count - 1):
        await cursor.nextset()
        results.append(await cursor.fetchall())
    return results
