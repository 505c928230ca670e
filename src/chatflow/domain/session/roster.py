"""Who is connected to this gateway, so that somebody can be shut out at once."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from chatflow.ports.identity import Principal


class Disconnectable(Protocol):
    """A session, as the roster sees it."""

    def disconnect(self, code: int, reason: str) -> None:
        """Close, and handle nothing that still comes; idempotent."""


@attrs.define(eq=False)
class Roster:
    """The sessions whose user is known: proven by a token, or in open mode claimed in a hello. One entry each."""

    _principals: dict[Disconnectable, Principal] = attrs.field(factory=dict, init=False)
    _sessions: Counter[int] = attrs.field(factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self._principals)

    def __iter__(self) -> Iterator[Principal]:
        return iter(tuple(self._principals.values()))

    def enter(self, session: Disconnectable, principal: Principal) -> None:
        """From now on the session is this principal's."""
        self.leave(session)
        self._principals[session] = principal
        self._sessions[principal.user_id] += 1

    def leave(self, session: Disconnectable) -> None:
        """The session has ended; idempotent."""
        principal = self._principals.pop(session, None)
        if principal is not None:
            self._sessions[principal.user_id] -= 1
            if not self._sessions[principal.user_id]:
                del self._sessions[principal.user_id]

    def sessions_of(self, user_id: int) -> int:
        """How many sessions a user has here."""
        return self._sessions[user_id]

    def disconnect(self, is_meant: Callable[[Principal], bool], code: int, reason: str) -> int:
        """Close every session whose principal is meant, a user's or a token's for instance; how many."""
        meant = [session for session, principal in self._principals.items() if is_meant(principal)]
        for session in meant:
            session.disconnect(code, reason)
        return len(meant)
