"""Gateways, processors and an api as processes of their own, over servers that somebody else has started."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Literal

import attrs

from tests.harness.ports import free_port

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 40.0
RoleName = Literal["gateway", "processor", "api"]
PORTS: dict[str, tuple[str, ...]] = {
    "gateway": ("GATEWAY_PORT", "GATEWAY_HEALTH_PORT"),
    "processor": ("PROCESSOR_HEALTH_PORT",),
    "api": ("API_PORT",),
}


def clean_environ() -> dict[str, str]:
    """This process's environment without settings of chatflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}


@attrs.define(eq=False)
class RoleProcess:
    """One role that may be killed, stopped for a while and started again on the same ports."""

    role: RoleName
    directory: Path
    settings: dict[str, str]
    name: str = ""
    ports: list[int] = attrs.field(init=False)
    process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _log: IO[bytes] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.name = self.name or self.role
        self.ports = [free_port() for _ in PORTS[self.role]]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def health_port(self) -> int:
        return self.ports[-1]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def environ(self) -> dict[str, str]:
        ports = {f"CHATFLOW_{name}": str(port) for name, port in zip(PORTS[self.role], self.ports, strict=True)}
        return clean_environ() | {"CHATFLOW_LOG_FORMAT": "json"} | self.settings | ports

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def start(self) -> None:
        """Start without waiting."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatflow.entrypoints.cli", self.role],
            env=self.environ,
            cwd=self.directory,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    async def ready(self) -> None:
        """Wait until its health says that it can do its work."""
        async with asyncio.timeout(START_DEADLINE_S):
            while not await self.is_fit():
                if not self.is_running:
                    raise RuntimeError(f"{self.name} ended: {self.log_text[-2000:]}")
                await asyncio.sleep(0.05)

    async def is_fit(self) -> bool:
        """Whether ``/health`` answers 200."""

        def ask() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/health", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (OSError, urllib.error.URLError, ValueError):
                return False

        return await asyncio.to_thread(ask)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._close_log()

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM, and the exit code of the drain."""
        assert self.process is not None
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_DEADLINE_S)
        finally:
            self.kill()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


@attrs.define(eq=False)
class Fleet:
    """Some of each role over one broker and one database."""

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
                self.roles[name] = RoleProcess(role, self.directory, self.common, name)

    @property
    def common(self) -> dict[str, str]:
        urls = {"CHATFLOW_BROKER_URL": self.broker_url, "CHATFLOW_DATABASE_URL": self.database_url}
        return urls | self.settings

    def of(self, role: RoleName) -> list[RoleProcess]:
        return [each for each in self.roles.values() if each.role == role]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command beside the roles."""
        return subprocess.run(
            [sys.executable, "-m", "chatflow.entrypoints.cli", *arguments],
            env=clean_environ() | {"CHATFLOW_LOG_FORMAT": "json"} | self.common,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )

    async def start(self) -> None:
        """Migrate, start all roles and wait for them."""
        self.directory.mkdir(parents=True, exist_ok=True)
        migrated = await asyncio.to_thread(self.run, "migrate")
        if migrated.returncode:
            raise RuntimeError(migrated.stderr)
        for each in self.roles.values():
            each.start()
        for each in self.roles.values():
            await each.ready()

    async def stop(self) -> dict[str, int]:
        """Drain everything, gateways first; exit codes by name."""
        codes: dict[str, int] = {}
        for role in ("gateway", "processor", "api"):
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
        """End everything at once."""
        for each in self.roles.values():
            each.kill()
