"""The two values that travel through every port: a message as accepted, and the same message once stored."""

import attrs

MessageKey = tuple[str, int]
"""What no two stored messages share: message id and user id. So nobody's id can take another's place."""


@attrs.frozen
class Message:
    """A validated, stamped message on its way to the store.

    Attributes:
        message_id: canonical lower-case UUID text; with ``user_id`` the identity under every retry and redelivery.
        room_id: 1-64 characters of ``A-Z a-z 0-9 . _ -``.
        user_id: 1 .. 2**53-1.
        username: the sender's name at the time of sending.
        text: the content, in code points.
        message_type: ``TEXT``, ``JOIN`` or ``LEAVE``.
        sent_at_us: the client's clock, microseconds since the Unix epoch, UTC.
        accepted_at_us: the gateway's clock, microseconds since the Unix epoch, UTC.
        server_id: the gateway that accepted it.
        client_ip: the peer address, ``""`` when unknown.
    """

    message_id: str
    room_id: str
    user_id: int
    username: str
    text: str
    message_type: str
    sent_at_us: int
    accepted_at_us: int
    server_id: str = ""
    client_ip: str = ""

    @property
    def key(self) -> MessageKey:
        """Its identity."""
        return self.message_id, self.user_id


@attrs.frozen
class StoredMessage:
    """A committed message and its place in the room: ``seq`` counts 1, 2, 3, ... without gaps."""

    message: Message
    seq: int
