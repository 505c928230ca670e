"""Work that is not a send takes turns, within a fixed share of the event loop's time.

An error, a join, a leave or a ping costs the loop far more than it costs its sender. So each is charged to its
connection, by a fixed estimate: no clock is read for a send. A connection that owes more than a trifle is not read
from, which slows its sender by TCP, until the process has had its time back: whoever owes reserves the next place in
one line for all connections, as in the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371).
Nobody has two places in that line, so connections take turns. Sends are never in it.
"""

import math

import attrs

from chatflow.ports.clock import Clock

SHARE = 0.1
"""Of the event loop's time, for all work that is paced."""

TRIFLE_S = 0.001
BUSY_TRIFLE_S = 3e-4
"""What may be owed without waiting, while the line is free and while somebody is in it: a hundred connections that come
at once would owe a hundred trifles in one turn of the loop. The smaller one covers a hello and a join. The larger one
is forgiven each second."""

PAUSE_STEP_S = 1.0
"""A longer pause is taken in steps, so that a connection that ends meanwhile is noticed."""

WARY_S = 10.0
"""For so long after it owed, a connection is read from in small pieces."""

HANDSHAKE_S = 5e-4
TOKEN_S = 2e-4
CONTROL_S = 1.5e-5
FRAME_S = 1.2e-5
BYTE_S = 2e-8
ANSWER_S = 3e-5
JOIN_S = 2.5e-4
PAGE_S = 3e-4
MESSAGE_S = 3e-5
"""What each costs the process, roughly: a handshake, which has a line of its own; a token that is looked
at; a control frame or a fragment; a
frame that nothing is sent with, and a byte of it; an error or a leave; a join; a page of the past, and a message of it.
Measured on a 2-core machine (EPYC, Python 3.11), rounded up."""


@attrs.define(eq=False)
class Pacer:
    """The line that all connections of a process share."""

    clock: Clock
    share: float = SHARE
    _free_at: float = attrs.field(default=-math.inf, init=False)

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits in it."""
        return self._free_at > self.clock()

    def reserve(self, cost_s: float) -> float:
        """Take a place for work that was done; seconds until it is paid for."""
        now = self.clock()
        self._free_at = max(self._free_at, now) + cost_s / self.share
        return self._free_at - now

    def trifle(self, now: float) -> float:
        """Seconds of work that a connection may owe without waiting in line."""
        return TRIFLE_S if self._free_at <= now else BUSY_TRIFLE_S


@attrs.define(eq=False)
class Debt:
    """What one connection owes.

    Attributes:
        is_due: more than a trifle; the shell waits its turn before anything else is done for this connection.
    """

    pacer: Pacer
    is_due: bool = attrs.field(default=False, init=False)
    _owed_s: float = attrs.field(default=0.0, init=False)
    _charged_at: float = attrs.field(default=-math.inf, init=False)
    _due_at: float = attrs.field(default=-math.inf, init=False)
    _paused_until: float = attrs.field(default=-math.inf, init=False)

    def charge(self, cost_s: float) -> None:
        """Add to what is owed."""
        now = self.pacer.clock()
        forgiven = (now - self._charged_at) * TRIFLE_S
        self._owed_s = max(0.0, self._owed_s - forgiven) + cost_s
        self._charged_at = now
        if self._owed_s > self.pacer.trifle(now):
            self.is_due = True
            self._due_at = now

    def pause(self, until: float) -> None:
        """Whatever is owed, be due until then; see `chatflow.domain.session.rates`."""
        self._paused_until = until
        self.is_due = True

    def reserve(self) -> float:
        """Take a place in the line for all that is owed; seconds until `paid` is to be called, which may be early."""
        owed, self._owed_s = self._owed_s, 0.0
        wait_s = self.pacer.reserve(owed) if owed else 0.0
        return max(wait_s, min(self._paused_until - self.pacer.clock(), PAUSE_STEP_S))

    def paid(self) -> None:
        """The turn has come: only what was charged meanwhile is owed, and pauses go on."""
        now = self.pacer.clock()
        self.is_due = self._owed_s > self.pacer.trifle(now) or self._paused_until > now

    def is_wary(self) -> bool:
        """Whether it owed in the last ``WARY_S`` seconds."""
        return self.pacer.clock() - self._due_at < WARY_S
