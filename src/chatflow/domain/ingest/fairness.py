"""Who sends more than its share, and how much of an envelope such senders get.

A sender with no window fills whatever queue it meets. First come, first served would let everybody else wait behind it.
So senders are told apart by what they did last: a *heavy* one sent its last `WINDOW` messages faster than `LIGHT_RATE`;
all others are *light*. Light senders are served first. Heavy ones take turns, and while light ones are about they
share a part of each envelope that shrinks until confirms are as quick as without them (additive increase,
multiplicative decrease: Chiu and Jain, 1989). Where everybody is heavy, as under a load test, nothing is held back.
"""

import math
from collections import deque

import attrs

LIGHT_RATE = 100
WINDOW = 256
FIRST_WINDOW = 64
"""Messages a second, and after how many a sender is judged; a new one sooner. 700 connections that send 20,000 messages
a second are light, and so is a burst of one window."""

LEAST = 4
"""Messages of heavy senders in an envelope, together, however slow confirms are: slowed, not starved."""

QUICK, SLOW = 1.25, 1.5
"""Times what a confirm takes without heavy senders. While it takes less than the first, they may have more; when it
takes more than the second, half of it."""

PROBE, PROBE_EVERY_S = 32, 0.5

LIGHT_MEMORY_S = 1.0
LIGHT_MEMORY = 16
"""For so long after a light sender was served, the next one is expected. So many are remembered, since newcomers look
light until they have sent a window."""


@attrs.define(eq=False)
class SenderShare:
    """What one sender has sent lately; its `PendingPublishes` know it by identity.

    Attributes:
        left: messages until it is judged again; `IngestPublisher.offer` counts them.
        is_heavy: as it was judged last.
        settled: the `PendingPublishes` whose light queue holds nothing of it since it became heavy.
    """

    left: int = 0
    is_heavy: bool = False
    settled: set[object] = attrs.field(factory=set)
    _window: int = attrs.field(default=FIRST_WINDOW, init=False)
    _since: float = attrs.field(default=-math.inf, init=False)

    def judge(self, now: float, light_rate: float) -> None:
        """A window is used up: it is heavy if that was faster than ``light_rate`` messages a second."""
        if self._since == -math.inf:  # its first message
            self._since, self.left = now, FIRST_WINDOW - 1
            return
        was_heavy, self.is_heavy = self.is_heavy, now - self._since < self._window / light_rate
        if was_heavy and not self.is_heavy:
            self.settled.clear()
        self._since, self._window, self.left = now, WINDOW, WINDOW - 1


@attrs.define(eq=False)
class HeavyBudget:
    """How many messages heavy senders may put into one envelope, together.

    How slow is slow depends on the machine. So now and then they are held to `LEAST` for `PROBE` envelopes, the second
    half of which shows how long a confirm takes without them.

    Args:
        most: what an envelope carries; theirs while there is no light sender.
    """

    most: int
    budget: int = attrs.field(default=LEAST, init=False)
    usual_s: float = attrs.field(default=math.inf, init=False)
    _light: deque[SenderShare] = attrs.field(factory=lambda: deque(maxlen=LIGHT_MEMORY), init=False)
    _light_at: float = attrs.field(default=-math.inf, init=False)
    _probe_at: float = attrs.field(default=-math.inf, init=False)
    _probed: list[float] = attrs.field(factory=list, init=False)
    _is_probing: bool = attrs.field(default=False, init=False)

    def allowed(self, now: float) -> int:
        """For the next envelope."""
        if not self.is_shared(now):
            return self.most
        if now - self._probe_at >= PROBE_EVERY_S and not self._is_probing:
            self._is_probing = True
            self._probed.clear()
        return LEAST if self._is_probing else self.budget

    def is_shared(self, now: float) -> bool:
        """Whether light senders are about: one was served lately, and has not become heavy since."""
        if now - self._light_at >= LIGHT_MEMORY_S:
            return False
        light = self._light
        return not light[-1].is_heavy or not all(share.is_heavy for share in light)

    def served_light(self, now: float, share: SenderShare) -> None:
        """An envelope carries messages of this light sender, and maybe of others."""
        self._light_at = now
        if not self._light or self._light[-1] is not share:
            self._light.append(share)

    def confirmed(self, now: float, took_s: float) -> None:
        """An envelope was confirmed, or given up, while heavy senders waited."""
        if self._is_probing:
            self._probe(now, took_s)
        elif took_s < QUICK * self.usual_s:
            self.budget = min(self.most, self.budget + 1)
        elif took_s > SLOW * self.usual_s:
            self.budget = max(LEAST, self.budget // 2)

    def _probe(self, now: float, took_s: float) -> None:
        probed = self._probed
        probed.append(took_s)
        if len(probed) == PROBE:
            self.usual_s = sum(probed[PROBE // 2 :]) / (PROBE // 2)
            self._is_probing, self._probe_at = False, now


@attrs.define(eq=False)
class HeavyLane:
    """Which partition may send an envelope of heavy senders alone: one at a time while light senders are about.

    Each envelope costs everybody something, however little it carries. What rides with messages of light senders needs
    no place in the lane.

    Attributes:
        waiting: partitions in the order in which they came; each is to be told when it is its turn.
        is_narrow: light senders are about.
        out: partitions that are in it now.
    """

    budget: HeavyBudget
    waiting: dict[int, None] = attrs.field(factory=dict)
    is_narrow: bool = attrs.field(default=False, init=False)
    out: set[int] = attrs.field(factory=set, init=False)

    def enters(self, partition: int, now: float, light: SenderShare | None) -> bool:
        """Whether this partition may send now; otherwise it waits. ``light``: of a light sender that it serves."""
        if light is not None:
            self.budget.served_light(now, light)
            self.is_narrow = self.budget.is_shared(now)
            self.waiting.pop(partition, None)
            return True
        self.is_narrow = self.budget.is_shared(now)
        if not self.is_narrow:
            self.waiting.pop(partition, None)
            return True
        if self.out or next(iter(self.waiting), partition) != partition:
            self.waiting[partition] = None
            return False
        self.waiting.pop(partition, None)
        self.out.add(partition)
        return True

    def leave(self, partition: int, now: float) -> list[int]:
        """An envelope of this partition was confirmed or given up; the partitions to tell."""
        self.out.discard(partition)
        if not self.budget.is_shared(now):
            return list(self.waiting)
        if self.out or not self.waiting:
            return []
        return [next(iter(self.waiting))]
