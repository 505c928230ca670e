import pytest

from chatflow.domain.messages.errors import InvalidMessage
from chatflow.domain.messages.validation import MessageLimits, valid_text, valid_user_id, valid_username


def test_limits_are_settings_and_the_refusals_name_them() -> None:
    tight = MessageLimits(user_id_max=9, username_min=1, username_max=2, text_max=3)
    for check, value, error in [
        (valid_user_id, 10, "it must be between 1 and 9"),
        (valid_username, "abc", "it must be between 1 and 2 characters"),
        (valid_text, "four", "it must be 1-3 characters"),
    ]:
        with pytest.raises(InvalidMessage, match=error):
            check(value, tight, "it")


def test_a_refusal_names_the_field_as_the_caller_does() -> None:
    for value, error in [(None, "text is required"), ("x" * 501, "text must be 1-500 characters")]:
        with pytest.raises(InvalidMessage, match=error):
            valid_text(value, MessageLimits(), "text")
