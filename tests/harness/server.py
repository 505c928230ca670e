"""A server process of the tests' own, from its start to its last child."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

import attrs
import psutil

from tests.harness import pausing
from tests.harness.ports import free_port
from tests.harness.programs import LOG_TAIL_BYTES, PATH, ServerFailed, run
from tests.harness.roots import Root

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.02

# $1 is the directory; the pids to end are names of empty files in $1/pids.
_GUARD = """
trap '' INT TERM HUP
cat >/dev/null
for file in "$1"/pids/*; do
    [ -e "$file" ] && kill -9 "${file##*/}" 2>/dev/null
done
rm -rf "$1"
"""


@attrs.define(eq=False)
class Guard:
    """A temporary directory whose servers do not outlive the tests.

    A small process waits for the end of this one, however it ends, then kills the pids noted below ``directory`` and
    removes it. `close` has it done at once.
    """

    directory: Path = attrs.field(factory=lambda: Path(tempfile.mkdtemp(prefix="chatflow-tests-")))
    _process: subprocess.Popen[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        (self.directory / "pids").mkdir()
        command = ["/bin/sh", "-c", _GUARD, "chatflow-guard", str(self.directory)]
        # Without the output of the tests: who waits for its end must not wait for the guard.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs, remove everything."""
        self._process.communicate()

    def note(self, pid: int) -> None:
        (self.directory / "pids" / str(pid)).touch()

    def forget(self, pid: int) -> None:
        (self.directory / "pids" / str(pid)).unlink(missing_ok=True)


@attrs.define(eq=False)
class Server:
    """One server on its own port and below its own directory, which it keeps over `restart`.

    Everything is synchronous and may block for as long as the server takes; from a coroutine that must go on meanwhile,
    call it by `asyncio.to_thread`. `kill`, `pause` and `resume` take milliseconds.

    Attributes:
        root: another Debian release whose programs it runs; ``None``: this machine's.
    """

    guard: Guard
    root: Root | None = attrs.field(default=None, kw_only=True)
    directory: Path = attrs.field(init=False)
    port: int = attrs.field(factory=free_port, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _prepared: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        prefix = f"{type(self).__name__.removesuffix('Server').lower()}-"
        self.directory = Path(tempfile.mkdtemp(prefix=prefix, dir=self.guard.directory))

    # What a kind of server says about itself.

    @staticmethod
    def missing() -> str | None:
        """What to install, or None when everything is there."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Before the first start only: data and configuration."""

    def _before_start(self) -> None:
        """Before every start: what the server needs running."""

    def _after_end(self) -> None:
        """After every end: end what the server needed running; nothing may be left of it already."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environ(self) -> dict[str, str]:
        """Nothing of the developer's own settings but where programs are."""
        return {"PATH": PATH, "HOME": str(self.directory), "LANG": "C.UTF-8"}

    def _answers(self) -> bool:
        raise NotImplementedError

    # What tests do with it.

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    @property
    def is_running(self) -> bool:
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self.guard.forget(self._process.pid)  # reaped just now: the number may be given to another process
        return False

    @property
    def pid(self) -> int:
        """The server's process."""
        if self._process is None:
            raise ServerFailed(f"{type(self).__name__} is not started")
        return self._process.pid

    def start(self) -> None:
        """Launch it; `ready` waits until it serves."""
        if self.is_running:
            raise ServerFailed(f"{type(self).__name__} runs already")
        self._end()
        if not self._prepared:
            self._prepare()
            self._prepared = True
        self._before_start()
        with self.log_path.open("ab") as log:
            self._process = self._spawn(self._command(), log)

    def ready(self, timeout_s: float = START_DEADLINE_S) -> None:
        """Return when it serves clients.

        Raises:
            ServerFailed: it ended, or it did not answer within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while not (self.is_running and self._answers()):
            if not self.is_running:
                raise ServerFailed(f"{type(self).__name__} ended\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{type(self).__name__} not ready after {timeout_s} s\n{self._log_tail()}")
            time.sleep(POLL_S)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and the system still accepts new ones, but nothing answers."""
        pausing.pause(self.pid)

    def resume(self) -> None:
        """SIGCONT; harmless when it is not paused."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the process and all its children; harmless when it does not run."""
        if self.is_running:
            family = psutil.Process(self.pid)
            for each in (family, *family.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self._end()

    def stop(self, timeout_s: float = STOP_DEADLINE_S) -> None:
        """SIGTERM, so that it ends in order; SIGKILL to what is left after ``timeout_s``."""
        if self.is_running and self._process is not None:
            self.resume()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def restart(self, *, in_order: bool = False) -> None:
        """Kill (or, ``in_order``, stop) it, start it on the same data and port, and wait until it serves."""
        if in_order:
            self.stop()
        else:
            self.kill()
        self.start()
        self.ready()

    def make_ready(self) -> None:
        """Whatever an earlier test did to it: resumed, running, serving."""
        if self.is_running:
            self.resume()
        else:
            self.start()
        self.ready()

    # Processes.

    def _spawn(self, command: list[str], log: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own: Ctrl-C is for the tests, which then end it in their order."""
        process = subprocess.Popen(
            self._rooted(command),
            env=self._environ(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.guard.note(process.pid)
        return process

    def _run(self, command: list[str]) -> str:
        """Run one of the server's programs to its end; what it printed.

        Raises:
            ServerFailed: it failed; the message ends with what it said.
        """
        return run(self._rooted(command), self._environ())

    def _rooted(self, command: list[str]) -> list[str]:
        return self.root.inside(command, self.guard.directory) if self.root else command

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self.guard.forget(process.pid)

    def _end(self) -> None:
        if self._process is not None:
            self._reap(self._process)
            self._process = None
        self._after_end()

    def _log_tail(self) -> str:
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if self.log_path.exists() else ""


def start_together(*servers: Server) -> None:
    """Start all of them, and return when each is ready."""
    for server in servers:
        server.start()
    for server in servers:
        server.ready()
