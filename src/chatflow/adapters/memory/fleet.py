"""The fleet of one process."""

from typing import TYPE_CHECKING

import attrs

from chatflow.ports.clock import Clock
from chatflow.ports.fleet import Fleet, RoleSnapshot


@attrs.define(eq=False)
class MemoryFleet:
    """The latest snapshot of each instance, until ``max_age_s`` after it was reported.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Clock
    max_age_s: float = attrs.field(default=5.0, kw_only=True, validator=attrs.validators.gt(0))
    _reports: dict[tuple[str, str], tuple[float, RoleSnapshot]] = attrs.field(init=False, factory=dict)

    async def report(self, snapshot: RoleSnapshot) -> None:
        """See the port."""
        self._forget_the_dead()
        self._reports[snapshot.role, snapshot.instance] = (self.clock(), snapshot)

    async def snapshots(self) -> list[RoleSnapshot]:
        """See the port; by role and instance."""
        self._forget_the_dead()
        return [snapshot for _, (_, snapshot) in sorted(self._reports.items(), key=lambda item: item[0])]

    def _forget_the_dead(self) -> None:
        oldest = self.clock() - self.max_age_s
        self._reports = {who: report for who, report in self._reports.items() if report[0] > oldest}


if TYPE_CHECKING:
    _: Fleet = MemoryFleet(clock=float)
