"""A commit on MySQL and MariaDB that fails unless it ends the transaction that was begun.

A server may roll a transaction back between two of its statements (a deadlock, a lost certification on Galera), and a
driver may hide the error: what follows then runs in a new transaction, whose COMMIT succeeds. Nothing that the server
says of that COMMIT tells it apart. So every transaction begins with a savepoint, and ends with its release and the
COMMIT in one packet: whatever rolls back takes the savepoint along, the release fails (1305), and the server does not
reach the COMMIT. See docs/adr/0017.
"""

from collections.abc import Sequence
from typing import Any

from asyncmy.errors import MySQLError, OperationalError
from sqlalchemy import Connection
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.pool import PoolProxiedConnection

from chatflow.adapters.sql.compat import PACKETS, PacketDriver
from chatflow.adapters.sql.errors import MYSQL_NO_SAVEPOINT

DRIVER = "proven_asyncmy"
SAVEPOINT = "SAVEPOINT begun"
RELEASE = "RELEASE SAVEPOINT begun"
COMMIT = (RELEASE, "COMMIT")
SERVER_LOST = 2013

PACKETS_KEY = "packets"
"""Where a connection's ``info`` holds its `PacketDriver`."""
_BEGUN_KEY = "begun"
"""In a connection's ``info`` while its transaction is open."""


class ProvenDialect(MySQLDialect_asyncmy):
    """Transactions that SQLAlchemy begins and ends itself."""

    supports_statement_cache = True

    def do_begin(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Send the savepoint, unless a packet has."""
        if first := beginning(dbapi_connection.info):
            _send(dbapi_connection, first)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Send the commit, unless a packet has."""
        if dbapi_connection.info.pop(_BEGUN_KEY, False):
            _send(dbapi_connection, COMMIT)


registry.register(f"mysql.{DRIVER}", __name__, ProvenDialect.__name__)


def packets_of(info: dict[Any, Any]) -> PacketDriver:
    """How this connection's statements get to the server."""
    driver: PacketDriver = info.get(PACKETS_KEY, PACKETS)
    return driver


def beginning(info: dict[Any, Any]) -> tuple[str, ...]:
    """The statements that the connection's next packet must begin with; from now on the transaction counts as begun."""
    if info.get(_BEGUN_KEY):
        return ()
    info[_BEGUN_KEY] = True
    return (SAVEPOINT,)


def ended(info: dict[Any, Any]) -> None:
    """Note that a packet has committed."""
    del info[_BEGUN_KEY]


def is_still_open(conn: Connection) -> bool:
    """Whether the open transaction is the one that was begun; after this it can only be rolled back."""
    if not conn.info.get(_BEGUN_KEY):
        return True  # there was none, and none is lost
    try:
        packets_of(conn.info).send(conn.connection.dbapi_connection, [RELEASE])
    except MySQLError as exc:
        if exc.args[0] != MYSQL_NO_SAVEPOINT:
            raise
        return False
    return True


def roll_back(conn: Connection) -> None:
    """Roll back whatever is open; SQLAlchemy's own rollback does nothing if only packets have begun it."""
    conn.info.pop(_BEGUN_KEY, None)
    conn.connection.rollback()


def _send(connection: PoolProxiedConnection, statements: Sequence[str]) -> None:
    """Turn foreign errors into the driver's: SQLAlchemy would not take them for a lost connection."""
    try:
        packets_of(connection.info).send(connection.dbapi_connection, statements)
    except MySQLError:
        raise
    except Exception as exc:
        raise OperationalError(SERVER_LOST, str(exc)) from exc
