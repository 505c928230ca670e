"""Every driver error, translated in one place.

duplicate key on messages.message_id   -> AlreadyStored (inside this package only)
duplicate key on (room_id, seq)        -> SequenceCollision
data that no retry can store           -> RowRejected
deadline passed, statement interrupted -> QueryTimeout
everything else                        -> StoreUnavailable
"""

from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import IntegrityError as SqliteIntegrityError
from typing import Any

from sqlalchemy import exc

from chatflow.ports.errors import QueryTimeout, RowRejected, SequenceCollision, StoreError, StoreUnavailable

MYSQL_DUPLICATE = 1062
MYSQL_BAD_DATA = frozenset({1048, 1264, 1265, 1292, 1366, 1367, 1406, 1690, 3819, 3854, 4025})
"""NULL, out of range, truncated, wrong date, wrong string, overlong, CHECK violated."""
MYSQL_TIMED_OUT = frozenset({1317, 1969, 3024})
MYSQL_TRY_AGAIN = frozenset({1205, 1213})
"""Lock wait timeout and deadlock: the server rolled back, the same transaction may succeed."""

SQLITE_BAD_BINDING = (OverflowError, UnicodeEncodeError)


class AlreadyStored(StoreError):
    """A message id of this batch exists; find out which and try again without them."""


class TryAgain(StoreUnavailable):
    """A deadlock or lock wait timeout: run the whole transaction again."""


@contextmanager
def translated() -> Iterator[None]:
    """Let nothing but ``StoreError`` out of a driver call."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise _meaning(error) from error
    except SQLITE_BAD_BINDING as error:
        raise RowRejected(str(error)) from error
    except OSError as error:
        raise StoreUnavailable(str(error)) from error


def _meaning(error: exc.SQLAlchemyError) -> StoreError:
    if not isinstance(error, exc.DBAPIError):
        return StoreUnavailable(str(error))
    driver = error.orig
    text = str(driver)
    if isinstance(driver, SQLITE_BAD_BINDING):
        return RowRejected(text)
    if type(driver).__module__ == "sqlite3":
        return _meaning_on_sqlite(driver, text)
    return _meaning_on_mysql(driver, text)


def _meaning_on_sqlite(driver: BaseException | None, text: str) -> StoreError:
    name = getattr(driver, "sqlite_errorname", "")
    if name == "SQLITE_CONSTRAINT_PRIMARYKEY" and "messages.seq" in text:
        return SequenceCollision(text)
    if name == "SQLITE_CONSTRAINT_UNIQUE" and text.endswith(": messages.message_id"):
        return AlreadyStored(text)
    if isinstance(driver, SqliteIntegrityError) or name in {"SQLITE_TOOBIG", "SQLITE_MISMATCH"}:
        return RowRejected(text)
    if "Error binding parameter" in text:
        return RowRejected(text)
    return QueryTimeout(text) if name == "SQLITE_INTERRUPT" else StoreUnavailable(text)


def _meaning_on_mysql(driver: Any, text: str) -> StoreError:
    code = driver.args[0] if driver is not None and driver.args else None
    if code == MYSQL_DUPLICATE:
        return AlreadyStored(text) if "message_id'" in text else SequenceCollision(text)
    if code in MYSQL_TRY_AGAIN:
        return TryAgain(text)
    if code in MYSQL_TIMED_OUT:
        return QueryTimeout(text)
    return RowRejected(text) if code in MYSQL_BAD_DATA else StoreUnavailable(text)
