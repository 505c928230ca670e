"""Envelopes on the wire: a JSON array of messages, its schema version in a header.

Encoded once per envelope and decoded once per hop, straight into the ports' values.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from chatflow.ports.messages import Message, StoredMessage

SCHEMA_HEADER = "chatflow-schema"
INGEST_SCHEMA = 1
LIVE_SCHEMA = 1
CONTENT_TYPE = "application/json"

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_messages = msgspec.json.Decoder(tuple[Message, ...])
_stored = msgspec.json.Decoder(tuple[StoredMessage, ...])


class Undecodable(Exception):
    """These bytes are no envelope of ours; the message says why."""


def encode_messages(messages: tuple[Message, ...]) -> bytes:
    """The body of an ingest envelope."""
    return _encoder.encode(messages)


def decode_messages(body: bytes, headers: Mapping[str, Any] | None) -> tuple[Message, ...]:
    """The messages of an ingest envelope.

    Raises:
        Undecodable: another schema version, not JSON, not messages, or none.
    """
    messages = _decode(_messages, body, headers, INGEST_SCHEMA)
    if not messages:
        raise Undecodable("an envelope without messages")
    return messages


def encode_stored(messages: tuple[StoredMessage, ...]) -> bytes:
    """The body of a live envelope."""
    return _encoder.encode(messages)


def decode_stored(body: bytes, headers: Mapping[str, Any] | None) -> tuple[StoredMessage, ...]:
    """The messages of a live envelope.

    Raises:
        Undecodable: another schema version, not JSON, or not stored messages.
    """
    return _decode(_stored, body, headers, LIVE_SCHEMA)


def partition_in(routing_key: str | None) -> int:
    """The partition that a routing key names.

    Raises:
        Undecodable: none.
    """
    try:
        return int(routing_key or "")
    except ValueError as exc:
        raise Undecodable(f"the routing key {routing_key!r} is no partition") from exc


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, headers: Mapping[str, Any] | None, schema: int) -> T:
    found = (headers or {}).get(SCHEMA_HEADER)
    if found != schema:
        raise Undecodable(f"schema version {found!r}, this program reads {schema}")
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as exc:
        raise Undecodable(str(exc)) from exc
