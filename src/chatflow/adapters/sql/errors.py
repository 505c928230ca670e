"""Every driver error, translated in one place.

duplicate (message_id, user_id)        -> AlreadyStored (inside this package only)
duplicate key on (room_id, seq)        -> SequenceCollision
data that no retry can store           -> RowRejected
deadline passed, statement interrupted -> QueryTimeout
everything else                        -> StoreUnavailable
"""

from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import IntegrityError as SqliteIntegrityError
from typing import Any

from asyncmy.errors import MySQLError
from sqlalchemy import exc

from chatflow.ports.errors import QueryTimeout, RowRejected, SequenceCollision, StoreError, StoreUnavailable

MYSQL_DUPLICATE = 1062
MYSQL_BAD_DATA = frozenset({1048, 1264, 1265, 1292, 1366, 1367, 1406, 1441, 1690, 3819, 3854, 4025})
"""NULL, out of range, truncated, wrong date, wrong string, overlong, date overflow, CHECK violated."""
MYSQL_TIMED_OUT = frozenset({1317, 1969, 3024})
MYSQL_TRY_AGAIN = frozenset({1205, 1213})
"""Lock wait timeout and deadlock, or a lost certification: the server rolled back, the same transaction may succeed."""
MYSQL_NO_SAVEPOINT = 1305
"""The transaction that was begun is gone; see `mysql.proven`."""
MYSQL_MESSAGE_KEYS = ("uq_messages_sender_message_id'", "uq_messages_message_id'")
SQLITE_MESSAGE_KEYS = (": messages.message_id, messages.user_id", ": messages.message_id")
"""How an error ends that names a message's unique key: today's, and that of before revision 0011, which stands until
that revision has dropped it. Older processors look for ``message_id'``, so MySQL's names both end in it."""

MYSQL_STATEMENT_FAILED = {MYSQL_DUPLICATE} | MYSQL_BAD_DATA | MYSQL_TIMED_OUT | MYSQL_TRY_AGAIN

BAD_BINDING = (OverflowError, TypeError, ValueError)
"""Raised by a driver or a column type for a value that it cannot encode."""


class AlreadyStored(StoreError):
    """A message of this batch exists; find out which and try again without them."""


class TryAgain(StoreUnavailable):
    """A deadlock or lock wait timeout: run the whole transaction again."""


class TransactionLost(TryAgain):
    """The server had rolled back before the commit without telling anybody: run the whole transaction again."""


class NoAnswer(StoreUnavailable):
    """No call of the group may try again by itself: the deadline passed, or SQLite's one writer failed."""


DRIVER_ERRORS = (exc.SQLAlchemyError, MySQLError, OverflowError, UnicodeEncodeError, OSError)
"""Everything that a driver call is known to raise."""


def translate(error: Exception) -> StoreError:
    """What one of `DRIVER_ERRORS` means."""
    if isinstance(error, exc.SQLAlchemyError):
        meaning = _meaning(error)
        if isinstance(error, exc.StatementError):
            error.statement = None  # may hold what somebody wrote, and errors are logged
        return meaning
    if isinstance(error, MySQLError):
        return _meaning_on_mysql(error)
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return RowRejected(str(error))
    return StoreUnavailable(str(error) or type(error).__name__)  # a timeout has no text


@contextmanager
def translated() -> Iterator[None]:
    """Let nothing but ``StoreError`` out of a driver call."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error) from error


def _meaning(error: exc.SQLAlchemyError) -> StoreError:
    driver = error.orig if isinstance(error, exc.StatementError) else error
    text = str(driver)
    if isinstance(driver, BAD_BINDING):
        return RowRejected(text)
    if not isinstance(error, exc.DBAPIError):
        return StoreUnavailable(text)
    if type(driver).__module__ == "sqlite3":
        return _meaning_on_sqlite(driver, text)
    return _meaning_on_mysql(driver)


def _meaning_on_sqlite(driver: BaseException | None, text: str) -> StoreError:
    name = getattr(driver, "sqlite_errorname", "")
    if name == "SQLITE_CONSTRAINT_PRIMARYKEY" and "messages.seq" in text:
        return SequenceCollision(text)
    if name == "SQLITE_CONSTRAINT_UNIQUE" and text.endswith(SQLITE_MESSAGE_KEYS):
        return AlreadyStored(text)
    if isinstance(driver, SqliteIntegrityError) or name in {"SQLITE_TOOBIG", "SQLITE_MISMATCH"}:
        return RowRejected(text)
    if "Error binding parameter" in text:
        return RowRejected(text)
    return QueryTimeout(text) if name == "SQLITE_INTERRUPT" else StoreUnavailable(text)


def tells_of_rollback(error: Exception) -> bool:
    """Whether the server itself reports that it has rolled the transaction back."""
    driver = error.orig if isinstance(error, exc.DBAPIError) else error
    return isinstance(driver, MySQLError) and bool(driver.args) and driver.args[0] in MYSQL_TRY_AGAIN


def is_of_the_statement(error: MySQLError) -> bool:
    """Whether only the statement failed, so that the connection can be used again."""
    return bool(error.args) and error.args[0] in MYSQL_STATEMENT_FAILED


def _meaning_on_mysql(driver: Any) -> StoreError:
    code, text = driver.args if len(driver.args) == 2 else (None, str(driver))
    if code == MYSQL_DUPLICATE:
        return AlreadyStored(text) if text.endswith(MYSQL_MESSAGE_KEYS) else SequenceCollision(text)
    if code == MYSQL_NO_SAVEPOINT:
        return TransactionLost(text)
    if code in MYSQL_TRY_AGAIN:
        return TryAgain(text)
    if code in MYSQL_TIMED_OUT:
        return QueryTimeout(text)
    return RowRejected(text) if code in MYSQL_BAD_DATA else StoreUnavailable(text)
