"""The statements that MySQL 8 and MariaDB get, word for word: what they cannot both say the same way, and the locks."""

import pytest
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from chatflow.adapters.sql.append_mysql import created_heads, locked_heads, raised_heads, rows_between
from chatflow.adapters.sql.errors import AlreadyStored, TryAgain, translated
from chatflow.adapters.sql.mysql import session_of
from chatflow.adapters.sql.schema import messages, user_message_summary, user_room_summary
from chatflow.adapters.sql.summaries import grouped, upsert_on_mysql
from chatflow.ports.errors import QueryTimeout, RowRejected, SequenceCollision, StoreUnavailable


def mysql8():
    dialect = mysql.dialect()
    dialect._requires_alias_for_on_duplicate_key = True  # what the dialect finds out from 8.0.20 on
    return dialect


DIALECTS = {"mysql 8": mysql8(), "mariadb": mysql.dialect(is_mariadb=True)}


@pytest.fixture(params=DIALECTS.values(), ids=DIALECTS)
def dialect(request):
    return request.param


def rendered(statement, dialect) -> str:
    text = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    return " ".join(str(text).split())


def test_heads_are_locked_in_room_order_through_their_index(dialect):
    assert rendered(locked_heads(["a", "b"]), dialect) == (
        "SELECT room_heads.room_id, room_heads.last_seq FROM room_heads FORCE INDEX (PRIMARY) "
        "WHERE room_heads.room_id IN (%s, %s) ORDER BY room_heads.room_id FOR UPDATE"
    )


def test_a_head_that_exists_is_not_created_again(dialect):
    assert rendered(created_heads(["a"]), dialect).endswith("ON DUPLICATE KEY UPDATE last_seq = room_heads.last_seq")


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("mysql 8", "VALUES (%s, %s), (%s, %s) AS new ON DUPLICATE KEY UPDATE last_seq = new.last_seq"),
        ("mariadb", "VALUES (%s, %s), (%s, %s) ON DUPLICATE KEY UPDATE last_seq = VALUES(last_seq)"),
    ],
)
def test_heads_are_raised_in_each_servers_own_words(name, tail):
    statement = raised_heads({"b": 2, "a": 1})
    assert rendered(statement, DIALECTS[name]).endswith(tail)
    assert list(statement.compile(dialect=DIALECTS[name]).params.values()) == ["a", 1, "b", 2]


def test_summaries_are_merged_from_a_derived_table_in_key_order(dialect):
    rows = grouped(user_room_summary, "mysql", messages, rows_between({"a": 4}, {"a": 9}))
    assert rendered(upsert_on_mysql(user_room_summary, rows), dialect) == (
        "INSERT INTO user_room_summary (user_id, room_id, message_count, last_activity) "
        "SELECT new.user_id, new.room_id, new.message_count, new.last_activity FROM "
        "(SELECT messages.user_id AS user_id, messages.room_id AS room_id, count(*) AS message_count, "
        "max(messages.accepted_at) AS last_activity FROM messages "
        "WHERE messages.room_id = %s AND messages.seq > %s AND messages.seq <= %s "
        "GROUP BY messages.user_id, messages.room_id) AS new ORDER BY new.user_id, new.room_id "
        "ON DUPLICATE KEY UPDATE message_count = (user_room_summary.message_count + new.message_count), "
        "last_activity = greatest(user_room_summary.last_activity, new.last_activity)"
    )


def test_the_name_is_settled_before_the_time_it_depends_on(dialect):
    rows = grouped(user_message_summary, "mysql", messages, rows_between({"a": 4}, {"a": 9}))
    text = rendered(upsert_on_mysql(user_message_summary, rows), dialect)
    assert text.index("UPDATE username =") < text.index("last_seen = greatest(")


def test_tables_keep_text_apart_byte_by_byte_and_times_to_the_microsecond(dialect):
    text = " ".join(str(CreateTable(messages).compile(dialect=dialect)).split())
    for part in (
        "room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "content VARCHAR(4000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
        "message_id BINARY(16) NOT NULL",
        "accepted_at DATETIME(6) NOT NULL",
        "PRIMARY KEY (room_id, seq)",
        "ENGINE=InnoDB",
    ):
        assert part in text
    assert "GLOB" not in text
    assert "CHECK (user_id BETWEEN 1 AND 9007199254740991)" in text
    assert text.count("CHECK (room_id") == text.count("CHECK (accepted_at") == 1


def test_readers_carry_the_deadline_in_a_comment_for_each_server():
    assert session_of(2.5).endswith("/*!80000 , max_execution_time = 2500 */ /*M! , max_statement_time = 2.5 */")
    assert "execution" not in session_of(None)


class FakeDriverError(Exception):
    """Numbers and texts as the server sends them."""


@pytest.mark.parametrize(
    ("code", "text", "meaning"),
    [
        (1062, "Duplicate entry 'x' for key 'messages.uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'x' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'an \\x22 and a '' inside' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'a \" inside' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'a-3' for key 'messages.PRIMARY'", SequenceCollision),
        (1062, "Duplicate entry 'a-3' for key 'PRIMARY'", SequenceCollision),
        (1213, "Deadlock found when trying to get lock", TryAgain),
        (1205, "Lock wait timeout exceeded", TryAgain),
        (1406, "Data too long for column 'content'", RowRejected),
        (1366, "Incorrect string value", RowRejected),
        (3024, "maximum statement execution time exceeded", QueryTimeout),
        (1969, "Query execution was interrupted (max_statement_time exceeded)", QueryTimeout),
        (2013, "Lost connection to MySQL server during query", StoreUnavailable),
        (1290, "running with the --read-only option", StoreUnavailable),
    ],
)
def test_every_error_of_the_server_has_one_meaning(code, text, meaning):
    from sqlalchemy.exc import OperationalError

    with pytest.raises(meaning) as raised, translated():
        raise OperationalError("INSERT", {}, FakeDriverError(code, text))
    assert type(raised.value) is meaning
