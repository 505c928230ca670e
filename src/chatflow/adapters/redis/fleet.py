"""The fleet in Redis: the latest snapshot of each instance, until it is too old by Redis' own clock."""

from typing import TYPE_CHECKING

import attrs
import msgspec

from chatflow.adapters.redis.client import SLOT
from chatflow.adapters.redis.commands import RedisCommands
from chatflow.adapters.redis.scripts import REPORT, SNAPSHOTS
from chatflow.ports.fleet import Fleet, RoleSnapshot

KEYS = (f"{SLOT}:fleet:spoke", f"{SLOT}:fleet:said")


@attrs.define(eq=False)
class RedisFleet:
    """See the port. Snapshots that another version wrote and this one cannot read are left out."""

    commands: RedisCommands
    max_age_s: float = attrs.field(default=5.0, kw_only=True, validator=attrs.validators.gt(0))

    async def report(self, snapshot: RoleSnapshot) -> None:
        """See the port."""
        who = msgspec.json.encode((snapshot.role, snapshot.instance))
        await self.commands.run(REPORT, KEYS, who, msgspec.json.encode(snapshot), self._max_age_ms)

    async def snapshots(self) -> list[RoleSnapshot]:
        """See the port; by role and instance."""
        reports = await self.commands.run(SNAPSHOTS, KEYS, self._max_age_ms)
        decoded = [snapshot for report in reports if (snapshot := _decoded(report)) is not None]
        return sorted(decoded, key=lambda snapshot: (snapshot.role, snapshot.instance))

    @property
    def _max_age_ms(self) -> int:
        return int(self.max_age_s * 1000)


def _decoded(report: bytes | None) -> RoleSnapshot | None:
    try:
        return msgspec.json.decode(report or b"", type=RoleSnapshot)
    except msgspec.DecodeError:
        return None


if TYPE_CHECKING:
    _: type[Fleet] = RedisFleet
