"""Gateways, processors and apis in their own processes, over servers that are running already."""

import asyncio
import subprocess
from pathlib import Path

import attrs

from tests.harness.process import RoleName, RoleProcess, run_command


@attrs.define(eq=False)
class Fleet:
    """Roles over one broker and one database."""

    directory: Path
    broker_url: str
    database_url: str
    gateways: int = 2
    processors: int = 2
    apis: int = 0
    settings: dict[str, str] = attrs.field(factory=dict)
    roles: dict[str, RoleProcess] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        counts: dict[RoleName, int] = {"gateway": self.gateways, "processor": self.processors, "api": self.apis}
        for role, count in counts.items():
            for number in range(1, count + 1):
                name = f"{role}-{number}"
                self.roles[name] = self.another(role, name)

    @property
    def common(self) -> dict[str, str]:
        urls = {"CHATFLOW_BROKER_URL": self.broker_url, "CHATFLOW_DATABASE_URL": self.database_url}
        return urls | self.settings

    def another(self, role: RoleName, name: str, settings: dict[str, str] | None = None) -> RoleProcess:
        """One more, which neither runs yet nor belongs to the fleet: whoever starts it ends it."""
        return RoleProcess(role, self.directory, self.common | (settings or {}), name)

    def of(self, role: RoleName) -> list[RoleProcess]:
        return [each for each in self.roles.values() if each.role == role]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the settings of the fleet."""
        return run_command(self.directory, self.common, *arguments)

    def migrate(self) -> None:
        """Migrate the database."""
        self.directory.mkdir(parents=True, exist_ok=True)
        migrated = self.run("migrate")
        if migrated.returncode:
            raise RuntimeError(migrated.stderr)

    async def start(self) -> None:
        """Migrate, start all roles and wait for them."""
        await asyncio.to_thread(self.migrate)
        for each in self.roles.values():
            each.start()
        for each in self.roles.values():
            await each.ready()

    async def stop(self) -> dict[str, int]:
        """Drain everything, gateways first; exit codes by name."""
        codes: dict[str, int] = {}
        order: tuple[RoleName, ...] = ("gateway", "processor", "api")
        for role in order:
            group = self.of(role)
            codes |= dict(
                zip(
                    [each.name for each in group],
                    await asyncio.gather(*(asyncio.to_thread(each.stop) for each in group)),
                    strict=True,
                )
            )
        return codes

    def kill(self) -> None:
        """Kill every role."""
        for each in self.roles.values():
            each.kill()
