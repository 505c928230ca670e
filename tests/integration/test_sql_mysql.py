"""The statements that MySQL 8 and MariaDB get, word for word: what they cannot both say the same way, and the locks."""

import pytest
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from chatflow.adapters.sql.errors import AlreadyStored, TryAgain, translated
from chatflow.adapters.sql.mysql.append import (
    counted,
    created_heads,
    inserted_messages,
    locked_heads,
    merged,
    raised_heads,
)
from chatflow.adapters.sql.mysql.database import reader_session, session_of, writer_session
from chatflow.adapters.sql.mysql.multirow import split
from chatflow.adapters.sql.schema import messages, room_message_summary, user_message_summary, user_room_summary
from chatflow.ports.errors import QueryTimeout, RowRejected, SequenceCollision, StoreUnavailable


def mysql8():
    dialect = mysql.dialect()
    dialect._requires_alias_for_on_duplicate_key = True  # what the dialect finds out from 8.0.20 on
    return dialect


DIALECTS = {"mysql 8": mysql8(), "mariadb": mysql.dialect(is_mariadb=True)}


@pytest.fixture(params=DIALECTS.values(), ids=DIALECTS)
def dialect(request):
    return request.param


def test_heads_are_locked_in_room_order_through_their_index():
    assert locked_heads(["a", "b"]) == (
        "SELECT room_id, last_seq FROM room_heads FORCE INDEX (PRIMARY) "
        "WHERE room_id IN ('a', 'b') ORDER BY room_id FOR UPDATE"
    )


def test_messages_are_inserted_plainly_with_times_as_microseconds(dialect):
    statement = inserted_messages(dialect)
    assert statement.head.startswith("INSERT INTO messages (room_id, seq, message_id,")
    assert statement.row == (
        "(%s, %s, %s, %s, %s, %s, %s, timestampadd(MICROSECOND, %s, '1970-01-01'), "
        "timestampadd(MICROSECOND, %s, '1970-01-01'), %s, %s)"
    )
    assert statement.tail == ""


def test_a_head_that_exists_is_not_created_again(dialect):
    assert created_heads(dialect).tail.endswith("ON DUPLICATE KEY UPDATE last_seq = room_heads.last_seq")


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("mysql 8", " AS new ON DUPLICATE KEY UPDATE last_seq = new.last_seq"),
        ("mariadb", " ON DUPLICATE KEY UPDATE last_seq = VALUES(last_seq)"),
    ],
)
def test_heads_are_raised_in_each_servers_own_words(name, tail):
    statement = raised_heads(DIALECTS[name])
    assert statement.tail == tail
    assert statement.rendered([("a", 1), ("b", 2)]) == (
        f"INSERT INTO room_heads (room_id, last_seq) VALUES ('a', 1), ('b', 2){tail}"
    )


def test_summaries_are_merged_in_each_servers_own_words():
    assert merged(user_room_summary, DIALECTS["mysql 8"]).tail == (
        " AS new ON DUPLICATE KEY UPDATE message_count = (user_room_summary.message_count + new.message_count), "
        "last_activity = greatest(user_room_summary.last_activity, new.last_activity)"
    )
    assert merged(room_message_summary, DIALECTS["mariadb"]).tail == (
        " ON DUPLICATE KEY UPDATE total_messages = (room_message_summary.total_messages + VALUES(total_messages)), "
        "unique_users = (room_message_summary.unique_users + VALUES(unique_users)), "
        "last_activity = greatest(room_message_summary.last_activity, VALUES(last_activity))"
    )


@pytest.mark.parametrize(("name", "alias", "new"), [("mysql 8", " AS new", "new.{}"), ("mariadb", "", "VALUES({})")])
def test_commits_are_counted_in_each_servers_own_words(name, alias, new):
    committed, last_batch = new.format("committed"), new.format("last_batch")
    assert counted(DIALECTS[name]).rendered([("one", 3, 8, 5, 2)]) == (
        "INSERT INTO commit_counts (processor, partition_id, partitions, committed, last_batch) "
        f"VALUES ('one', 3, 8, 5, 2){alias} ON DUPLICATE KEY UPDATE "
        f"committed = greatest(commit_counts.committed + {last_batch}, {committed}), last_batch = {last_batch}"
    )


def test_the_name_is_settled_before_the_time_it_depends_on(dialect):
    text = merged(user_message_summary, dialect).tail
    assert text.index("UPDATE username =") < text.index("last_seen = greatest(")


def test_values_are_rendered_so_that_they_end_where_they_end():
    statement = inserted_messages(DIALECTS["mysql 8"])
    row = ("a", 1, b"\x00'\xff", 7, "o'brien\\", "TEXT", "%s \0 \n \" '; --", -5, 6, "", "::1")
    assert statement.rendered([row]).endswith(
        r"""VALUES ('a', 1, x'0027ff', 7, 'o\'brien\\', 'TEXT', '%s \0 \n \" \'; --', """
        "timestampadd(MICROSECOND, -5, '1970-01-01'), timestampadd(MICROSECOND, 6, '1970-01-01'), '', '::1')"
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 5),
        (1, True),
        (2, "text"),
        (3, 2.0),
        (4, None),
        (6, ["hi"]),
        (6, b"hi"),
        (6, "\udcff"),
        (3, 2**63),
        (7, -(2**63) - 1),
    ],
)
def test_a_value_that_would_be_stored_as_something_else_is_refused_before_it_is_sent(dialect, place, value):
    row = ["a", 1, bytes(16), 7, "name", "TEXT", "hi", 5, 6, "gw", "::1"]
    inserted_messages(dialect).check([tuple(row)])
    row[place] = value
    with pytest.raises(RowRejected):
        inserted_messages(dialect).check([tuple(row)])


@pytest.mark.parametrize("limit", [5_000, 20_000, 10**9])
def test_rows_are_split_in_order_so_that_each_part_fits(limit):
    rows = [("x" * (number % 50), number) for number in range(300)]
    parts = list(split(rows, limit))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        text = raised_heads(DIALECTS["mysql 8"]).rendered(part)
        assert len(part) == 1 or len(text.encode()) <= limit


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


def test_sessions_carry_their_limits_in_a_comment_for_each_server():
    assert session_of(2.5).endswith("/*!80000 , max_execution_time = 2500 */ /*M! , max_statement_time = 2.5 */")
    assert "execution" not in session_of(None)
    assert reader_session(None).endswith("/*!80000 , transaction_read_only = 1 */ /*M! , tx_read_only = 1 */")
    assert writer_session(10.0).endswith(
        "innodb_lock_wait_timeout = 3 /*!80000 , wait_timeout = 20 */ /*M! , idle_transaction_timeout = 10 */"
    )


class FakeDriverError(Exception):
    """Numbers and texts as the server sends them."""


@pytest.mark.parametrize(
    ("code", "text", "meaning"),
    [
        (1062, "Duplicate entry 'x-7' for key 'messages.uq_messages_sender_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'x-7' for key 'uq_messages_sender_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'x' for key 'messages.uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'x' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'an \\x22 and a '' inside' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'a \" inside' for key 'uq_messages_message_id'", AlreadyStored),
        (1062, "Duplicate entry 'a-3' for key 'messages.PRIMARY'", SequenceCollision),
        (1062, "Duplicate entry 'a-3' for key 'PRIMARY'", SequenceCollision),
        (1213, "Deadlock found when trying to get lock", TryAgain),
        (1205, "Lock wait timeout exceeded", TryAgain),
        (1406, "Data too long for column 'content'", RowRejected),
        (1441, "Datetime function: datetime field overflow", RowRejected),
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


def test_an_error_without_a_text_is_told_by_its_name():
    with pytest.raises(StoreUnavailable, match="TimeoutError"), translated():
        raise TimeoutError
