"""chatflow's processes for tests and benchmarks: started, killed, paused and started again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Literal

import attrs

from tests.harness import pausing
from tests.harness.ports import free_port
from tests.harness.preloaded import run_preloaded

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 40.0
RoleName = Literal["up", "gateway", "processor", "api"]
PORTS: dict[RoleName, tuple[str, ...]] = {
    "up": ("GATEWAY_PORT", "API_PORT", "PROCESSOR_HEALTH_PORT", "GATEWAY_HEALTH_PORT"),
    "gateway": ("GATEWAY_PORT", "GATEWAY_HEALTH_PORT"),
    "processor": ("PROCESSOR_HEALTH_PORT",),
    "api": ("API_PORT",),
}
"""The last port of each answers ``/health``; for ``up``, the api's must answer, too."""


def command(*arguments: str) -> list[str]:
    """A chatflow command line, run by this interpreter."""
    return [sys.executable, "-m", "chatflow.entrypoints.cli", *arguments]


def clean_environ(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment with exactly these settings of chatflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}
    if kept.pop("PYTHONDONTWRITEBYTECODE", ""):
        # No bytecode beside the sources; but a role must not compile all its libraries (3 s) at every start.
        kept["PYTHONPYCACHEPREFIX"] = str(Path(sys.prefix) / ".pycache")
    return kept | {"CHATFLOW_LOG_FORMAT": "json"} | settings


def run_command(directory: Path, settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_preloaded(list(arguments), clean_environ(settings), directory)


@attrs.define(eq=False)
class RoleProcess:
    """One role that may be killed, paused and started again on the same ports."""

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
        return clean_environ(self.settings | ports)

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
        # Its own session, as under a service manager: Linux divides the CPU between sessions before processes
        # (sched(7), autogroup), so roles in the session of the load client would share one server's part.
        self.process = subprocess.Popen(
            command(self.role),
            env=self.environ,
            cwd=self.directory,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Wait until ``/health`` answers 200."""
        async with asyncio.timeout(START_DEADLINE_S):
            while not await self.is_fit():
                if not self.is_running:
                    raise RuntimeError(f"{self.name} ended: {self.log_text[-2000:]}")
                await asyncio.sleep(0.05)

    async def is_fit(self) -> bool:
        """Whether ``/health`` answers 200."""
        return await asyncio.to_thread(_is_fit, self.health_port)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._close_log()

    def pause(self) -> None:
        """SIGSTOP."""
        pausing.pause(self.pid)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> int:
        """Send SIGTERM, wait for the drain, and return the exit code."""
        assert self.process is not None
        if self.is_running:
            self.resume()
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_DEADLINE_S)
        finally:
            self.kill()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def _is_fit(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


class UpProcess(RoleProcess):
    """One ``chatflow up`` with its data in its directory."""

    def __init__(self, data_dir: Path, settings: dict[str, str] | None = None) -> None:
        super().__init__("up", data_dir, {"CHATFLOW_DATA_DIR": str(data_dir)} | (settings or {}))

    @property
    def data_dir(self) -> Path:
        return self.directory

    @property
    def gateway_port(self) -> int:
        return self.port

    @property
    def api_port(self) -> int:
        return self.ports[1]

    async def is_fit(self) -> bool:
        """Whether both the gateway and the api answer 200."""
        return await super().is_fit() and await asyncio.to_thread(_is_fit, self.api_port)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the same settings."""
        return run_command(self.directory, self.settings, *arguments)

    async def get(self, path: str) -> dict[str, Any]:
        """GET JSON from the api."""

        def ask() -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}{path}", timeout=30) as response:
                value: dict[str, Any] = json.load(response)
                return value

        return await asyncio.to_thread(ask)
