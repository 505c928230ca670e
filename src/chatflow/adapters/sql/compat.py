"""Parts of asyncmy that it does not document, and what is done without them. SQLAlchemy is used by its public API only.

what                                  used for                        if it breaks              noticed by
------------------------------------  ------------------------------  ------------------------  -------------------
Connection.query, .next_result        several statements in one       no write is possible      self-check,
("internal use only")                 packet, without a cursor                                  contract suite
MULTI_STATEMENTS is always on         the same                        each packet is refused    contract suite
Connection._stream_broken             lost connections are found in   each lost one fails one   self-check,
                                      the pool without a round trip   call                      test_sql_mysql_faults
converters.escape_string              texts in packets                wrong texts are stored    self-check
executemany uses MariaDB's bulk       large batches                   they are slower           test_sql_mysql_packets
protocol for an INSERT of one row

Without the first three, statements are sent one at a time through cursors, and SQLAlchemy pings a connection before
each use. Without ``escape_string`` a table of our own escapes, which takes longer. Without the last nothing changes.

The self-check runs when a database is opened; ``CHATFLOW_DRIVER_FALLBACK`` fails it. That of ``escape_string`` compares
results, once per process.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from asyncmy import converters
from asyncmy.connection import Connection as AsyncmyConnection

from chatflow.domain.resilience.self_check import failed_checks

Rows = Sequence[Any]

logger = logging.getLogger("chatflow.store")

_ESCAPES = str.maketrans({"\0": "\\0", "\n": "\\n", "\r": "\\r", "\x1a": "\\Z", '"': '\\"', "'": "\\'", "\\": "\\\\"})
_ESCAPED = "".join(map(chr, range(256))) + "\N{GRINNING FACE}"


def escape_with_table(text: str) -> str:
    """A text as it stands between the quotes of a literal, where backslashes escape."""
    return text.translate(_ESCAPES)


def _chosen_escape() -> Callable[[str], str]:
    try:
        escape: Callable[[str], str] = converters.escape_string
        return escape if escape(_ESCAPED) == escape_with_table(_ESCAPED) else escape_with_table
    except (AttributeError, TypeError):
        return escape_with_table


escape_string = _chosen_escape()


@attrs.frozen
class PacketDriver:
    """How statements get to the server, over the connection that SQLAlchemy gives.

    Both run them one after the other, stop at the first that fails, and raise ``MySQLError``.

    Attributes:
        run: the rows of each statement, none for those that answer with none.
        send: for statements without rows.
        tells_broken: whether a driver's connection has been lost; ``None`` where only a ping can tell.
    """

    run: Callable[[Any, Sequence[str]], list[Rows]]
    send: Callable[[Any, Sequence[str]], None]
    tells_broken: Callable[[Any], bool] | None


def _run_packet(connection: Any, statements: Sequence[str]) -> list[Rows]:
    text, count = "; ".join(statements), len(statements)
    results: list[Rows] = connection.run_async(lambda driver: _run(driver, text, count))
    return results


def _send_packet(connection: Any, statements: Sequence[str]) -> None:
    """Without a cursor, which costs 4 us for each statement."""
    text, count = "; ".join(statements), len(statements)
    connection.run_async(lambda driver: _send(driver, text, count))


async def _run(driver: Any, text: str, count: int) -> list[Rows]:
    cursor = driver.cursor()
    await cursor.execute(text)
    results = [await cursor.fetchall()]
    for _ in range(count - 1):
        await cursor.nextset()
        results.append(await cursor.fetchall())
    return results


async def _send(driver: Any, text: str, count: int) -> None:
    await driver.query(text)
    for _ in range(count - 1):
        await driver.next_result()


def _run_singly(connection: Any, statements: Sequence[str]) -> list[Rows]:
    cursor = connection.cursor()
    try:
        results: list[Rows] = []
        for statement in statements:
            cursor.execute(statement)
            results.append(cursor.fetchall() if cursor.description else ())
        return results
    finally:
        cursor.close()


def _send_singly(connection: Any, statements: Sequence[str]) -> None:
    _run_singly(connection, statements)


PACKETS = PacketDriver(_run_packet, _send_packet, lambda driver: bool(driver._stream_broken))
SINGLY = PacketDriver(_run_singly, _send_singly, None)

CHECKS: Mapping[str, Callable[[], bool]] = {
    "asyncmy's Connection.query": lambda: callable(AsyncmyConnection.query),
    "asyncmy's Connection.next_result": lambda: callable(AsyncmyConnection.next_result),
    "asyncmy's Connection._stream_broken": lambda: hasattr(AsyncmyConnection, "_stream_broken"),
}


def packet_driver(*, forced_fallback: bool = False) -> PacketDriver:
    """How to use this asyncmy; warns when it has to do without packets."""
    if failed := failed_checks(CHECKS, forced=forced_fallback):
        logger.warning("one statement at a time, and a ping before each use of a connection: %s", "; ".join(failed))
        return SINGLY
    return PACKETS
