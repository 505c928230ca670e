import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.messages.errors import InvalidMessage
from chatflow.domain.messages.validation import MessageLimits, Stamps, valid_message_id
from chatflow.domain.session.chat_frame import message_from_chat
from chatflow.ports.messages import Message

LIMITS = MessageLimits()
STAMPS = Stamps("gw-1", lambda: 1_795_483_900_000_001, lambda: "01970000-0000-7000-8000-000000000001")
OWN_ID = "01970000-0000-7000-8000-0000000000ff"
GOOD: dict[str, object] = {
    "userId": "123",
    "username": "user123",
    "message": "hi",
    "timestamp": "2026-11-24T01:31:00.123Z",
    "messageType": "TEXT",
}


def accept(**changes: object) -> Message:
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    return message_from_chat(fields, room_id="5", client_ip="10.0.0.1", stamps=STAMPS, limits=LIMITS)


def refusal(**changes: object) -> str:
    with pytest.raises(InvalidMessage) as raised:
        accept(**changes)
    assert not raised.value.retryable
    return str(raised.value)


def test_a_valid_frame_becomes_a_stamped_message() -> None:
    assert accept() == Message(
        "01970000-0000-7000-8000-000000000001",
        "5",
        123,
        "user123",
        "hi",
        "TEXT",
        1_795_483_860_123_000,
        1_795_483_900_000_001,
        "gw-1",
        "10.0.0.1",
    )


def test_unknown_fields_are_ignored() -> None:
    assert accept(roomId="other", serverId=9) == accept()


@pytest.mark.parametrize(
    ("user_id", "taken"),
    [(1, 1), (123, 123), ("123", 123), ("007", 7), ("+5", 5), (2**53 - 1, 2**53 - 1), (str(2**53 - 1), 2**53 - 1)],
)
def test_a_user_id_is_an_integer_or_its_decimal_text(user_id: object, taken: int) -> None:
    assert accept(userId=user_id).user_id == taken


REQUIRED = "userID is required"
NOT_A_NUMBER = "userID must be a valid number"
OUT_OF_RANGE = "userID must be between 1 and 9007199254740991"


@pytest.mark.parametrize(
    ("user_id", "error"),
    [
        (..., REQUIRED),
        (None, REQUIRED),
        ("", REQUIRED),
        (True, NOT_A_NUMBER),
        (False, NOT_A_NUMBER),
        (5.0, NOT_A_NUMBER),
        (5.5, NOT_A_NUMBER),
        ([], NOT_A_NUMBER),
        ([5], NOT_A_NUMBER),
        ({}, NOT_A_NUMBER),
        (" ", NOT_A_NUMBER),
        (" 5", NOT_A_NUMBER),
        ("5 ", NOT_A_NUMBER),
        ("5\n", NOT_A_NUMBER),
        ("1_000", NOT_A_NUMBER),
        ("\u0665", NOT_A_NUMBER),
        ("²", NOT_A_NUMBER),
        ("0x10", NOT_A_NUMBER),
        ("5.0", NOT_A_NUMBER),
        ("1e3", NOT_A_NUMBER),
        ("abc", NOT_A_NUMBER),
        ("-", NOT_A_NUMBER),
        ("9" * 5_000, NOT_A_NUMBER),
        (0, OUT_OF_RANGE),
        ("0", OUT_OF_RANGE),
        (-1, OUT_OF_RANGE),
        ("-1", OUT_OF_RANGE),
        (2**53, OUT_OF_RANGE),
        (10**100, OUT_OF_RANGE),
        ("9" * 40, OUT_OF_RANGE),
    ],
)
def test_what_is_wrong_with_a_user_id_is_said_in_the_contracts_words(user_id: object, error: str) -> None:
    assert refusal(userId=user_id) == error


NAME_REQUIRED = "username is required"
NOT_ALPHANUMERIC = "username must be alphanumeric (only letters and numbers)"
NAME_LENGTH = "username must be between 3 and 20 characters"


@pytest.mark.parametrize(
    ("username", "error"),
    [
        (..., NAME_REQUIRED),
        (None, NAME_REQUIRED),
        ("", NAME_REQUIRED),
        (7, NOT_ALPHANUMERIC),
        (True, NOT_ALPHANUMERIC),
        (["ada"], NOT_ALPHANUMERIC),
        ("ada lovelace", NOT_ALPHANUMERIC),
        (" ", NOT_ALPHANUMERIC),
        ("ada\n", NOT_ALPHANUMERIC),
        ("jürgen", NOT_ALPHANUMERIC),
        ("日本語", NOT_ALPHANUMERIC),
        ("a_b", NOT_ALPHANUMERIC),
        ("-" * 30, NOT_ALPHANUMERIC),
        ("ab", NAME_LENGTH),
        ("a" * 21, NAME_LENGTH),
    ],
)
def test_what_is_wrong_with_a_username_is_said_in_the_contracts_words(username: object, error: str) -> None:
    assert refusal(username=username) == error


@pytest.mark.parametrize("username", ["abc", "a" * 20, "123", "User42"])
def test_letters_and_digits_within_the_limits_are_a_username(username: str) -> None:
    assert accept(username=username).username == username


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (..., "message is required"),
        (None, "message is required"),
        ("", "message is required"),
        ("x" * 501, "message must be 1-500 characters"),
        (5, "message must be 1-500 characters"),
        (False, "message must be 1-500 characters"),
        (["hi"], "message must be 1-500 characters"),
    ],
)
def test_what_is_wrong_with_a_message_is_said_in_the_contracts_words(text: object, error: str) -> None:
    assert refusal(message=text) == error


@pytest.mark.parametrize("text", ["x" * 500, "é" * 500, "😀" * 500, " ", "\n", "\x00", "a\u0301", '"\\'])
def test_length_is_counted_in_code_points_and_any_character_may_be_said(text: str) -> None:
    assert accept(message=text).text == text


def test_five_hundred_and_one_emoji_are_too_many() -> None:
    assert refusal(message="😀" * 501) == "message must be 1-500 characters"


@pytest.mark.parametrize(
    ("message_type", "error"),
    [
        (..., "messageType is required"),
        (None, "messageType is required"),
        ("", "messageType is required"),
        ("text", "messageType must be TEXT, JOIN, or LEAVE"),
        ("TEXT ", "messageType must be TEXT, JOIN, or LEAVE"),
        (1, "messageType must be TEXT, JOIN, or LEAVE"),
        (["TEXT"], "messageType must be TEXT, JOIN, or LEAVE"),
        ({"TEXT": 1}, "messageType must be TEXT, JOIN, or LEAVE"),
    ],
)
def test_what_is_wrong_with_a_message_type_is_said_in_the_contracts_words(message_type: object, error: str) -> None:
    assert refusal(messageType=message_type) == error


@pytest.mark.parametrize("message_type", ["TEXT", "JOIN", "LEAVE"])
def test_three_message_types_are_known(message_type: str) -> None:
    assert accept(messageType=message_type).message_type == message_type


@pytest.mark.parametrize(
    ("timestamp", "error"),
    [
        (..., "timestamp is required"),
        (None, "timestamp is required"),
        ("", "timestamp is required"),
        (1_795_483_860, "timestamp must be a valid ISO 8601 format"),
        (True, "timestamp must be a valid ISO 8601 format"),
        ([], "timestamp must be a valid ISO 8601 format"),
        ("yesterday", "timestamp must be a valid ISO 8601 format"),
        ("2026-11-24", "timestamp must be a valid ISO 8601 format"),
        ("2026-02-30T00:00:00Z", "timestamp must be a valid ISO 8601 format"),
        ("0001-01-01T00:00:00+14:00", "timestamp must be a valid ISO 8601 format"),
    ],
)
def test_what_is_wrong_with_a_timestamp_is_said_in_the_contracts_words(timestamp: object, error: str) -> None:
    assert refusal(timestamp=timestamp) == error


@pytest.mark.parametrize(
    "message_id", ["", "7", 7, True, [], OWN_ID[:-1], OWN_ID + "0", f"{{{OWN_ID}}}", OWN_ID.replace("-", "")]
)
def test_a_message_id_that_is_not_a_uuid_is_refused(message_id: object) -> None:
    assert refusal(messageId=message_id) == "messageId must be a UUID"


@pytest.mark.parametrize("message_id", [OWN_ID, OWN_ID.upper()])
def test_a_clients_own_message_id_is_kept_in_lower_case(message_id: str) -> None:
    assert accept(messageId=message_id).message_id == OWN_ID


@pytest.mark.parametrize("version", "14678")
def test_a_clients_own_message_id_may_be_a_uuid_of_any_version(version: str) -> None:
    message_id = f"0192f0c1-2d3e-{version}abc-8def-0123456789ab"
    assert accept(messageId=message_id).message_id == message_id


def test_without_a_message_id_a_new_one_is_given() -> None:
    assert accept(messageId=None).message_id == STAMPS.new_id()


# Each field with a broken value and what is said of it, in the order of the contract.
BROKEN: list[tuple[str, object, str]] = [
    ("userId", "x", NOT_A_NUMBER),
    ("username", "a b", NOT_ALPHANUMERIC),
    ("message", "", "message is required"),
    ("messageType", "SHOUT", "messageType must be TEXT, JOIN, or LEAVE"),
    ("timestamp", "noon", "timestamp must be a valid ISO 8601 format"),
    ("messageId", "7", "messageId must be a UUID"),
]


@pytest.mark.parametrize("count", range(1, len(BROKEN) + 1))
def test_the_first_broken_rule_in_the_order_of_the_contract_is_the_one_that_is_told(count: int) -> None:
    for chosen in itertools.combinations(BROKEN, count):
        assert refusal(**{name: value for name, value, _ in chosen}) == chosen[0][2]


def test_the_order_does_not_depend_on_the_order_of_the_fields() -> None:
    fields = {name: value for name, value, _ in reversed(BROKEN)}
    with pytest.raises(InvalidMessage, match=NOT_A_NUMBER):
        message_from_chat(fields, room_id="5", client_ip="", stamps=STAMPS, limits=LIMITS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "messageId"]), json_values))
def test_whatever_json_a_client_sends_it_is_a_valid_message_or_a_refusal(changes: dict[str, object]) -> None:
    try:
        message = accept(**changes)
    except InvalidMessage:
        return
    assert 1 <= message.user_id < 2**53
    assert 3 <= len(message.username) <= 20
    assert 1 <= len(message.text) <= 500
    assert valid_message_id(message.message_id, "id") == message.message_id


@given(st.text(), st.integers(-(10**20), 10**20))
def test_one_value_is_judged_alone(username: str, user_id: int) -> None:
    named = username.isascii() and username.isalnum() and 3 <= len(username) <= 20
    if named and 1 <= user_id < 2**53:
        assert accept(username=username, userId=user_id).username == username
    else:
        refusal(username=username, userId=user_id)
