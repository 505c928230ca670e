"""Compact JSON text frames, encoded once for everybody who gets the same one."""

from collections.abc import Sequence
from typing import Any

import msgspec

from chatflow.domain.messages.errors import Malformed
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.session.answers import Answer
from chatflow.domain.session.chat import ChatFrame, ChatReply
from chatflow.ports.messages import StoredMessage

PER_FRAME = 64
"""Objects in one array frame: about 150 KB when every message has its full length."""

_decoder = msgspec.json.Decoder()
encode_json = msgspec.json.Encoder().encode


def decode(frame: str | bytes) -> Any:
    """The value of a text frame.

    Raises:
        Malformed: a binary frame, or not JSON.
    """
    if type(frame) is not str:
        raise Malformed("malformed JSON")
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise Malformed("malformed JSON") from exc


def decode_chat(frame: str | bytes) -> ChatFrame:
    """The fields of a ``/chat`` frame, and their compact text.

    Raises:
        Malformed: not a JSON object in a text frame.
    """
    fields = decode(frame)
    if type(fields) is not dict:
        raise Malformed("malformed JSON")
    return fields, encode_json(fields)


def ignore(frame: str | bytes) -> None:
    """For a peer that has nothing to say."""


def array_frames(objects: Sequence[bytes]) -> list[bytes]:
    """One object alone, or arrays of them."""
    if len(objects) == 1:
        return [objects[0]]
    return [b"[" + b",".join(objects[i : i + PER_FRAME]) + b"]" for i in range(0, len(objects), PER_FRAME)]


def session_answers(answers: Sequence[Answer]) -> list[bytes]:
    """What ``/ws`` sends for answers. Acks are written by hand, since there is one for each message."""
    if not answers:
        return []
    pieces, known_ms, at = [], -1, ""
    for answer in answers:
        if type(answer) is not tuple:
            pieces.append(encode_json(answer))
            continue
        ref, message, seq = answer
        if (ms := message.accepted_at_us // 1000) != known_ms:
            known_ms, at = ms, format_timestamp(message.accepted_at_us)
        shown = f'"ref":{ref},' if type(ref) is int else "" if ref is None else f'"ref":{encode_json(ref).decode()},'
        stored = "" if seq is None else f',"seq":{seq}'
        pieces.append(f'{{"op":"ack",{shown}"id":"{message.message_id}","at":"{at}"{stored}}}'.encode())
    return array_frames(pieces)


def chat_replies(replies: Sequence[ChatReply]) -> list[bytes]:
    """What ``/chat`` sends: one frame for each reply."""
    frames, known_ms, at = [], -1, b""
    for reply in replies:
        assert reply.fate is not None  # noqa: S101  # only those are taken
        at_us, accepted_id, error = reply.fate
        if (ms := at_us // 1000) != known_ms:
            known_ms, at = ms, format_timestamp(at_us).encode()
        if accepted_id is not None:
            frames.append(
                b'{"originalMessage":%b,"serverTimestamp":"%b","status":"success","messageId":"%b"}'
                % (reply.original, at, accepted_id.encode())
            )
        else:
            frames.append(
                b'{"originalMessage":%b,"serverTimestamp":"%b","status":"error","errorMessage":%b}'
                % (reply.original, at, encode_json(error))
            )
    return frames


class SessionMessage(msgspec.Struct, tag_field="op", tag="message"):
    """A stored message as ``/ws`` carries it."""

    room: str
    seq: int
    id: str
    userId: int
    username: str
    type: str
    text: str
    at: str


class FeedMessage(msgspec.Struct):
    """A stored message as ``/feed`` carries it."""

    messageId: str
    roomId: str
    seq: int
    userId: int
    username: str
    message: str
    messageType: str
    timestamp: str
    serverTimestamp: str


def session_frames(messages: Sequence[StoredMessage]) -> list[bytes]:
    """What ``/ws`` sends for stored messages."""
    return array_frames([encode_json(_session_message(stored)) for stored in messages])


def feed_frames(messages: Sequence[StoredMessage]) -> list[bytes]:
    """What ``/feed`` sends for stored messages: one frame each."""
    return [encode_json(_feed_message(stored)) for stored in messages]


def _session_message(stored: StoredMessage) -> SessionMessage:
    message = stored.message
    return SessionMessage(
        message.room_id,
        stored.seq,
        message.message_id,
        message.user_id,
        message.username,
        message.message_type,
        message.text,
        format_timestamp(message.accepted_at_us),
    )


def _feed_message(stored: StoredMessage) -> FeedMessage:
    message = stored.message
    return FeedMessage(
        message.message_id,
        message.room_id,
        stored.seq,
        message.user_id,
        message.username,
        message.text,
        message.message_type,
        format_timestamp(message.sent_at_us),
        format_timestamp(message.accepted_at_us),
    )
