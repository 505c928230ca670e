"""What happens in a round, drawn from its seed alone; and seeds in whose rounds every kind has its turn."""

from collections.abc import Iterable, Iterator
from random import Random

import attrs

from tests.fault.faults import KINDS

SEEDS = 2**32
LAST_START_S = 4.0
"""A second fault begins this much after the first at the latest, so that most overlap."""


@attrs.frozen
class PlannedFault:
    """One fault of a round.

    Attributes:
        at_s: after the senders are up to speed.
        seed: of its target, its length and its details.
    """

    kind: str
    at_s: float
    seed: int


@attrs.frozen
class Plan:
    """A round. The same seed gives the same plan."""

    seed: int
    faults: tuple[PlannedFault, ...]

    @property
    def kinds(self) -> set[str]:
        return {fault.kind for fault in self.faults}


def random_plan(seed: int) -> Plan:
    """One or two faults of any kinds."""
    chance = Random(seed)
    kinds = chance.sample(list(KINDS), chance.choice((1, 2)))
    starts = [chance.uniform(0.0, 1.0), chance.uniform(1.0, LAST_START_S)]
    return Plan(seed, tuple(PlannedFault(kind, starts[n], chance.randrange(SEEDS)) for n, kind in enumerate(kinds)))


def plan_of(kinds: Iterable[str], seed: int) -> Plan:
    """These kinds at once, half a second apart."""
    chance = Random(seed)
    return Plan(seed, tuple(PlannedFault(kind, 0.5 * n, chance.randrange(SEEDS)) for n, kind in enumerate(kinds)))


def plans(seed: int) -> Iterator[Plan]:
    """The plan of ``seed``, then plans of seeds derived from it, without end.

    The kinds are dealt from a shuffled deck: each next seed is the first one drawn whose plan has the deck's next kind.
    """
    chance = Random(seed)
    plan = random_plan(seed)
    yield plan
    deck: list[str] = chance.sample(list(KINDS), len(KINDS))
    had = set(plan.kinds)
    while True:
        deck = [kind for kind in deck if kind not in had] or chance.sample(list(KINDS), len(KINDS))
        plan = random_plan(chance.randrange(SEEDS))
        while deck[0] not in plan.kinds:
            plan = random_plan(chance.randrange(SEEDS))
        had = plan.kinds
        yield plan
