"""Commands in forked processes that have everything imported already: an import costs a second, a fork nothing.

The rest is as in a process of its own: arguments, environment, directory, output, exit code.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]
MODULES = ("cli", "cli.database", "cli.dead_letters", "cli.maintenance", "containers", "serving", "up")
"""What the commands import, of ``chatflow.entrypoints``."""


@attrs.define(eq=False)
class Preloaded:
    """A process that forks one command at a time; it ends with this one."""

    _process: "subprocess.Popen[str]" = attrs.field(init=False)

    @_process.default
    def _start(self) -> "subprocess.Popen[str]":
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}
        return subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, arguments: list[str], environ: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
        """Run ``chatflow`` with these arguments to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as errors:
            job = {"arguments": arguments, "environ": environ, "directory": str(directory)}
            print(json.dumps(job | {"files": [out.name, errors.name]}), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(["chatflow", *arguments], code, out.read(), errors.read())

    def close(self) -> None:
        self._process.communicate()


_idle: list[Preloaded] = []


def run_preloaded(arguments: list[str], environ: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run ``chatflow`` with these arguments to its end; from any number of threads at a time."""
    try:
        preloaded = _idle.pop()
    except IndexError:
        preloaded = Preloaded()
        atexit.register(preloaded.close)
    result = preloaded.run(arguments, environ, directory)
    _idle.append(preloaded)
    return result


def _serve() -> None:
    for module in MODULES:
        importlib.import_module(f"chatflow.entrypoints.{module}")
    gc.freeze()  # what is imported is not looked at, and so not copied
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_become(job))  # at once: to take down what is imported takes longer than most commands
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(job: dict[str, Any]) -> int:
    """Be the command; its exit code."""
    os.environ.clear()
    os.environ.update(job["environ"])
    os.chdir(job["directory"])
    for descriptor, name in enumerate((os.devnull, *job["files"])):
        os.dup2(os.open(name, os.O_RDWR), descriptor)
    sys.argv = ["chatflow", *job["arguments"]]
    try:
        runpy.run_module("chatflow.entrypoints.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as at the top of any process
        traceback.print_exc()
        return 1
    else:
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    _serve()
