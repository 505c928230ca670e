"""Tokens in a WebSocket handshake: where they may stand, and where never.

A browser can set neither headers nor anything else but the subprotocols: it offers ``chatflow.v1`` and
``chatflow.token.<token>``. The first is selected; the second is never sent back. A URL stands in logs, histories and
Referer headers, so a token in it is spoilt, and the handshake is refused, however valid the token.
"""

from collections.abc import Sequence
from urllib.parse import unquote_plus

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.typing import Subprotocol

SUBPROTOCOL = Subprotocol("chatflow.v1")
TOKEN_PREFIX = "chatflow.token."  # noqa: S105  # a prefix
BEARER = "bearer "
IN_URL_NAMES = frozenset({"token", "access_token", "id_token", "authorization", "jwt"})
"""Of parameters that hold a token, to judge by how others do it."""


def token_of(headers: Headers) -> str | None:
    """The token in ``Authorization: Bearer``, else in a subprotocol; ``None`` without one."""
    for value in headers.get_all("Authorization"):
        if value[: len(BEARER)].lower() == BEARER:
            return value[len(BEARER) :].strip()
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        try:
            offered = parse_subprotocol(value)
        except InvalidHeader:  # the handshake was refused for it
            return None
        for each in offered:
            if each.startswith(TOKEN_PREFIX):
                return each[len(TOKEN_PREFIX) :]
    return None


def select_subprotocol(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Ours, if it is offered; never one with a token."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def stands_in_url(query: str) -> bool:
    """Whether a parameter of the URL looks like a token's."""
    return any(unquote_plus(each.partition("=")[0]).lower() in IN_URL_NAMES for each in query.split("&"))
