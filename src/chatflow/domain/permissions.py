"""What a principal may do. Pure rules; every read and write of every protocol asks here.

Rooms are compared by their stored name: ``room5`` is room ``5``, in a grant and in a request, so a grant of ``room5``
is one of ``5``. A pattern with ``*`` is matched with stored names alone: ``room*`` covers ``room-a`` but not ``room5``,
whose name is ``5``.
"""

import re
from collections.abc import Iterator

from chatflow.domain.messages.errors import InvalidRoom
from chatflow.domain.messages.rooms import normalise_room
from chatflow.ports.identity import Grant, Principal

MODES = {"r": (True, False), "w": (False, True), "rw": (True, True)}
_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,64}", re.ASCII)


def grant_of(room: object, may: object) -> Grant:
    """The grant that a room pattern and ``r``, ``w`` or ``rw`` mean.

    Raises:
        ValueError: no such pattern or mode; the text says what is expected and quotes nothing.
    """
    if type(may) is not str or may not in MODES:
        raise ValueError("may must be r, w or rw")
    if type(room) is not str or not _PATTERN.fullmatch(room):
        raise ValueError("room must be 1-64 characters of A-Z a-z 0-9 . _ - and *")
    if "*" not in room:
        room = normalise_room(room)
    return Grant(room, *MODES[may])


def grants_of(text: str) -> tuple[Grant, ...]:
    """Grants in short: ``team-*:rw,lobby:r``.

    Raises:
        ValueError: says what is expected.
    """
    grants = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        room, colon, may = part.rpartition(":")
        if not colon:
            raise ValueError("a grant is ROOM:r, ROOM:w or ROOM:rw")
        grants.append(grant_of(room, may))
    return tuple(grants)


def matches(pattern: str, room_id: str) -> bool:
    """Whether a grant's pattern covers a stored room name; takes time proportional to both, whatever the pattern."""
    head, *rest = pattern.split("*")
    if not rest:
        return head == room_id
    *middle, tail = rest
    end = len(room_id) - len(tail)
    if len(head) > end or not (room_id.startswith(head) and room_id.endswith(tail)):
        return False
    at = len(head)
    for part in middle:
        found = room_id.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def may_read(principal: Principal, room_id: str) -> bool:
    """Whether its history and its messages may be read; ``room_id`` is the stored name."""
    return principal.permits_all or any(grant.may_read and matches(grant.room, room_id) for grant in principal.grants)


def may_write(principal: Principal, room_id: str) -> bool:
    """Whether messages may be sent to it; ``room_id`` is the stored name."""
    return principal.permits_all or any(grant.may_write and matches(grant.room, room_id) for grant in principal.grants)


def may_read_user(principal: Principal, user_id: int) -> bool:
    """Whether what that user wrote, in whatever room, may be read: one's own, or as an admin."""
    return principal.permits_all or principal.user_id == user_id


def may_read_all(principal: Principal) -> bool:
    """Whether answers that hold texts of any room and any user may be read."""
    return principal.permits_all


def may_read_metrics(principal: Principal) -> bool:
    """Whether figures over all rooms and users, and the state of the fleet, may be read: they hold no text."""
    return principal.permits_all or principal.may_metrics


def may_moderate(principal: Principal) -> bool:
    """Whether messages may be deleted, users be muted or disconnected. Openness is not enough for that."""
    return principal.is_admin


def spellings(room_id: str) -> Iterator[str]:
    """Every name that means this stored room."""
    yield room_id
    try:
        if normalise_room(f"room{room_id}") == room_id:
            yield f"room{room_id}"
    except InvalidRoom:
        return
