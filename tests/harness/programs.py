"""The programs that tests start, wherever they are installed."""

import os
import shutil
import subprocess

RUN_DEADLINE_S = 60.0
LOG_TAIL_BYTES = 4_000
# Servers are not in every user's path.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


class ServerFailed(RuntimeError):
    """A server ended or did not answer in time; the message ends with its log."""


def run(command: list[str], environ: dict[str, str], timeout_s: float = RUN_DEADLINE_S) -> str:
    """What ``command`` printed.

    Raises:
        ServerFailed: it failed; the message ends with what it said.
    """
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise ServerFailed(f"{command[0]} failed with {done.returncode}\n{done.stdout}{done.stderr}"[-LOG_TAIL_BYTES:])
    return done.stdout


def absent(*programs: str) -> list[str]:
    """Those of ``programs`` (names or paths) that are not installed."""
    return [program for program in programs if shutil.which(program, path=PATH) is None]
