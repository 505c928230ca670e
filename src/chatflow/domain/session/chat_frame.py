"""From a decoded frame of ``/chat/{room}`` to a `Message`: its fields, in the order and words of that protocol."""

from collections.abc import Mapping

from chatflow.domain.messages.validation import (
    MessageLimits,
    Stamps,
    valid_message_id,
    valid_message_type,
    valid_text,
    valid_timestamp,
    valid_user_id,
    valid_username,
)
from chatflow.ports.messages import Message


def message_from_chat(
    fields: Mapping[str, object], *, room_id: str, client_ip: str, stamps: Stamps, limits: MessageLimits
) -> Message:
    """The message that a frame asks to be stored.

    Raises:
        InvalidMessage: the first rule that a field breaks: userId, username, message, messageType, timestamp,
            messageId.
    """
    get = fields.get
    user_id = valid_user_id(get("userId"), limits, "userID")
    username = valid_username(get("username"), limits, "username")
    text = valid_text(get("message"), limits, "message")
    message_type = valid_message_type(get("messageType"), "messageType")
    sent_at_us = valid_timestamp(get("timestamp"), "timestamp")
    message_id = valid_message_id(get("messageId"), "messageId") or stamps.new_id()
    return Message(
        message_id,
        room_id,
        user_id,
        username,
        text,
        message_type,
        sent_at_us,
        stamps.now_us(),
        stamps.server_id,
        client_ip,
    )
