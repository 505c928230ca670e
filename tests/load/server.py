"""Start and stop a real ``chatflow up`` for load and fault runs: its own ports, its own data directory."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

import attrs

START_DEADLINE_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@attrs.define(eq=False)
class UpProcess:
    """One ``chatflow up`` that may be killed and started again on the same ports and data."""

    data_dir: Path
    settings: dict[str, str] = attrs.field(factory=dict)
    ports: list[int] = attrs.field(factory=lambda: free_ports(4))
    process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _log: IO[bytes] | None = attrs.field(default=None, init=False)

    @property
    def gateway_port(self) -> int:
        return self.ports[0]

    @property
    def api_port(self) -> int:
        return self.ports[2]

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}
        names = ("GATEWAY_PORT", "GATEWAY_HEALTH_PORT", "API_PORT", "PROCESSOR_HEALTH_PORT")
        ports = {f"CHATFLOW_{name}": str(port) for name, port in zip(names, self.ports, strict=True)}
        return kept | ports | {"CHATFLOW_DATA_DIR": str(self.data_dir), "CHATFLOW_LOG_FORMAT": "json"} | self.settings

    @property
    def log_text(self) -> str:
        return (self.data_dir / "up.log").read_text(errors="replace")

    def start(self) -> None:
        """Start without waiting."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._log = (self.data_dir / "up.log").open("ab")
        command = [sys.executable, "-m", "chatflow.entrypoints.cli", "up"]
        self.process = subprocess.Popen(
            command, env=self.environ, cwd=self.data_dir, stdout=self._log, stderr=subprocess.STDOUT
        )

    async def ready(self) -> None:
        """Wait until both the gateway and the read side answer."""
        assert self.process is not None
        async with asyncio.timeout(START_DEADLINE_S):
            while not (await self._answers(self.ports[1]) and await self._answers(self.ports[2])):
                if self.process.poll() is not None:
                    raise RuntimeError(f"chatflow up ended with {self.process.returncode}: {self.log_text[-2000:]}")
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close_log()

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM, and the exit code of the drain."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.kill()
            self._close_log()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another chatflow command with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", "chatflow.entrypoints.cli", *arguments],
            env=self.environ,
            cwd=self.data_dir,
            capture_output=True,
            text=True,
            check=False,
        )

    async def get(self, path: str) -> dict[str, object]:
        """JSON from the read side."""
        return await asyncio.to_thread(self._get_json, f"http://127.0.0.1:{self.api_port}{path}")

    @staticmethod
    def _get_json(url: str) -> dict[str, object]:
        with urllib.request.urlopen(url, timeout=30) as response:
            value: dict[str, object] = json.load(response)
            return value

    @staticmethod
    async def _answers(port: int) -> bool:
        try:
            await asyncio.to_thread(UpProcess._get_json, f"http://127.0.0.1:{port}/health")
        except (OSError, urllib.error.URLError, ValueError):
            return False
        return True

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
