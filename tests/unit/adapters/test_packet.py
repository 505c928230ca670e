"""What becomes of a connection whose packet was refused or broke off, over a connection that only says so."""

import asyncio

import asyncmy
import pytest
from asyncmy.errors import IntegrityError, OperationalError

from chatflow.adapters.sql.mysql.packet import commit_together, run_together
from chatflow.adapters.sql.mysql.pools import open_connection
from chatflow.ports.errors import StoreUnavailable


class FailingConnection:
    """As much of a SQLAlchemy connection as a packet needs; every packet ends with ``error``."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.invalidated = False
        self.info: dict[str, object] = {}
        self.connection = self.dbapi_connection = self

    def run_async(self, fn):
        raise self.error

    def invalidate(self, _: BaseException | None = None) -> None:
        self.invalidated = True


def outcome(error: BaseException, send) -> tuple[type[BaseException], bool]:
    """What the caller hears, and whether the connection is given up."""
    conn = FailingConnection(error)
    with pytest.raises(BaseException) as caught:
        send(conn, ["SELECT 1"])
    return type(caught.value), conn.invalidated


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (IntegrityError(1062, "Duplicate entry"), (IntegrityError, False)),
        (OperationalError(1213, "Deadlock found"), (OperationalError, False)),
        (OperationalError(1305, "SAVEPOINT begun does not exist"), (OperationalError, True)),
        (OperationalError(1290, "The server is running with the --read-only option"), (OperationalError, True)),
        (OperationalError(2013, "Lost connection"), (OperationalError, True)),
        (ConnectionResetError("reset"), (StoreUnavailable, True)),
        (RuntimeError("the stream is broken"), (StoreUnavailable, True)),
        (asyncio.CancelledError(), (asyncio.CancelledError, True)),
    ],
    ids=["duplicate", "deadlock", "rolled back", "read only", "lost", "reset", "broken", "cancelled"],
)
@pytest.mark.parametrize("send", [run_together, commit_together])
def test_a_connection_stays_in_use_only_after_a_fault_of_the_statement(error, expected, send):
    assert outcome(error, send) == expected


class Server:
    """As much of a connection as a packet needs, over a driver that answers each statement with its number."""

    def __init__(self) -> None:
        self.info: dict[str, object] = {}
        self.connection = self.dbapi_connection = self
        self.packets: list[str] = []

    def run_async(self, fn):
        return asyncio.run(fn(self))

    def cursor(self):
        return self

    async def execute(self, text):
        self.packets.append(text)
        self.at = 0

    async def nextset(self):
        self.at += 1

    async def fetchall(self):
        return [self.at]

    query, next_result = execute, nextset


def test_a_savepoint_is_before_everything_and_its_release_before_the_commit():
    conn = Server()
    assert run_together(conn, ["ONE", "TWO"]) == [[1], [2]]
    assert run_together(conn, ["THREE"]) == [[0]]
    commit_together(conn, ["FOUR"])
    commit_together(conn, ["ONE"])
    assert conn.packets == [
        "SAVEPOINT begun; ONE; TWO",
        "THREE",
        "FOUR; RELEASE SAVEPOINT begun; COMMIT",
        "SAVEPOINT begun; ONE; RELEASE SAVEPOINT begun; COMMIT",
    ]


async def test_a_connection_that_is_lost_while_it_opens_is_told_as_lost(monkeypatch):
    async def connect(**_):
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    monkeypatch.setattr(asyncmy, "connect", connect)
    with pytest.raises(ConnectionResetError):
        await open_connection(host="127.0.0.1")
