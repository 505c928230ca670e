"""The tables, once for every dialect. ``migrations/`` creates exactly these; a test compares the two.

``messages`` is clustered by ``(room_id, seq)``, so a room page is one range scan. A secondary index carries that key
at its end in InnoDB and in a SQLite ``WITHOUT ROWID`` table alike, which makes ``(user_id, accepted_at)`` the full
order of a user's history. Text is compared byte by byte, so that the database and Python sort alike.

MySQL in strict mode refuses what does not fit a column; SQLite takes anything, so it gets the same limits as checks.
What fits a column and still is no message is refused by a check on both.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - DATETIME columns carry no zone; everything stored is UTC
MIN_TIME_US = -30_610_224_000_000_000
"""The year 1000, where MySQL's DATETIME starts."""
MAX_TIME_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999, where it ends."""
KEY_BYTES = 16
MAX_SEQ = 2**63 - 1
MAX_USER_ID = 2**53 - 1


class EpochMicros(TypeDecorator[int]):
    """Microseconds since the Unix epoch: DATETIME(6) on MySQL, an integer on SQLite, an ``int`` in Python."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = mysql.DATETIME(fsp=6) if dialect.name == "mysql" else BigInteger()
        return dialect.type_descriptor(native)

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "mysql":
            return value
        return EPOCH + timedelta(microseconds=value)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        return micros_of(value) if isinstance(value, datetime) else value


class MessageId(TypeDecorator[str]):
    """A UUID: 16 bytes in the database, canonical text in Python; bound as either."""

    impl = LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = mysql.BINARY(16) if dialect.name == "mysql" else LargeBinary(16)
        return dialect.type_descriptor(native)

    def process_bind_param(self, value: str | bytes | None, dialect: Dialect) -> bytes | None:
        return key_of(value) if isinstance(value, str) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else id_of(value.hex())


def micros_of(moment: datetime) -> int:
    """Microseconds since the epoch of a DATETIME read from MySQL."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def key_of(message_id: str) -> bytes:
    """The 16 stored bytes of an id.

    Raises:
        ValueError: it is not 32 hexadecimal digits.
    """
    key = bytes.fromhex(message_id.replace("-", ""))
    if len(key) != KEY_BYTES:
        raise ValueError(f"{message_id!r} is no UUID")
    return key


def id_of(key_hex: str) -> str:
    """Canonical text of an id given as 32 hexadecimal digits."""
    return f"{key_hex[:8]}-{key_hex[8:12]}-{key_hex[12:16]}-{key_hex[16:20]}-{key_hex[20:]}"


def _ascii(length: int) -> String:
    return String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def _unicode(length: int) -> String:
    return String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def _check(name: str, condition: str, dialect: str = "sqlite") -> CheckConstraint:
    return CheckConstraint(condition, name=name).ddl_if(dialect=dialect)


INNODB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
CLUSTERED: dict[str, Any] = INNODB | {"sqlite_with_rowid": False}

metadata = MetaData()

messages = Table(
    "messages",
    metadata,
    Column("room_id", _ascii(64), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", MessageId, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("username", _unicode(64), nullable=False),
    Column("message_type", _ascii(16), nullable=False),
    Column("content", _unicode(4000), nullable=False),
    Column("sent_at", EpochMicros, nullable=False),
    Column("accepted_at", EpochMicros, nullable=False),
    Column("server_id", _unicode(64), nullable=False),
    Column("client_ip", _ascii(45), nullable=False),
    Index("uq_messages_sender_message_id", "message_id", "user_id", unique=True),
    Index("ix_messages_user_accepted", "user_id", "accepted_at"),
    Index("ix_messages_accepted_user", "accepted_at", "user_id"),
    _check("ck_messages_room_id", "length(room_id) BETWEEN 1 AND 64 AND room_id NOT GLOB '*[^A-Za-z0-9._-]*'"),
    CheckConstraint("seq >= 1", name="ck_messages_seq"),
    _check("ck_messages_message_id", "length(message_id) = 16"),
    CheckConstraint(f"user_id BETWEEN 1 AND {MAX_USER_ID}", name="ck_messages_user_id"),
    _check("ck_messages_username", "length(username) <= 64"),
    _check("ck_messages_message_type", "length(message_type) <= 16"),
    _check("ck_messages_content", "length(content) <= 4000"),
    _check("ck_messages_sent_at", f"sent_at BETWEEN {MIN_TIME_US} AND {MAX_TIME_US}"),
    _check("ck_messages_accepted_at", f"accepted_at BETWEEN 0 AND {MAX_TIME_US}"),
    _check("ck_messages_room_id", "room_id <> ''", "mysql"),
    _check("ck_messages_accepted_at", "accepted_at >= '1970-01-01'", "mysql"),
    _check("ck_messages_server_id", "length(server_id) <= 64"),
    _check("ck_messages_client_ip", "length(client_ip) <= 45"),
    **CLUSTERED,
)

room_heads = Table(
    "room_heads",
    metadata,
    Column("room_id", _ascii(64), primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    **CLUSTERED,
)

user_message_summary = Table(
    "user_message_summary",
    metadata,
    Column("user_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("username", _unicode(64), nullable=False),
    Column("total_messages", BigInteger, nullable=False),
    Column("last_seen", EpochMicros, nullable=False),
    **INNODB,
)

room_message_summary = Table(
    "room_message_summary",
    metadata,
    Column("room_id", _ascii(64), primary_key=True),
    Column("total_messages", BigInteger, nullable=False),
    Column("unique_users", BigInteger, nullable=False),
    Column("last_activity", EpochMicros, nullable=False),
    **CLUSTERED,
)

user_room_summary = Table(
    "user_room_summary",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", _ascii(64), primary_key=True),
    Column("message_count", BigInteger, nullable=False),
    Column("last_activity", EpochMicros, nullable=False),
    **CLUSTERED,
)

commit_counts = Table(
    "commit_counts",
    metadata,
    Column("processor", _ascii(64), primary_key=True),
    Column("partition_id", Integer, primary_key=True, autoincrement=False),
    Column("partitions", Integer, primary_key=True, autoincrement=False),
    Column("committed", BigInteger, nullable=False),
    Column("last_batch", BigInteger, nullable=False),
    **CLUSTERED,
)

dead_letter_messages = Table(
    "dead_letter_messages",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("message_id", _ascii(255)),
    Column("message_json", Text().with_variant(mysql.MEDIUMTEXT(), "mysql"), nullable=False),
    Column("error_reason", _unicode(1000), nullable=False),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("created_at", EpochMicros, nullable=False),
    Column("last_retry", EpochMicros),
    Column("resolved", Boolean, nullable=False, server_default=false()),
    Column("user_id", _ascii(64), nullable=False, server_default=""),
    Index("uq_dead_letter_messages_sender_message_id", "message_id", "user_id", unique=True),
    **INNODB,
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("user_id", BigInteger),
    Column("token_id", _unicode(255)),
    Column("revoked_at", EpochMicros, nullable=False),
    Column("expires_at", EpochMicros, nullable=False),
    Column("revoked_by", _unicode(64), nullable=False),
    **INNODB,
)
