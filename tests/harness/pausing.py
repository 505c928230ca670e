"""SIGSTOP that has taken effect: the signal reaches the threads of a process one by one."""

import os
import signal
import time
from pathlib import Path

import psutil

STOPPED_WITHIN_S = 5.0
LOOK_S = 0.001


def pause(pid: int) -> None:
    """Stop a process; on return none of its threads is running.

    Raises:
        TimeoutError: one does.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + STOPPED_WITHIN_S
    while set(thread_states(pid)) != {"T"}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(LOOK_S)


def thread_states(pid: int) -> list[str]:
    """The state letter of each thread; without /proc only that of the process."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        return ["T" if psutil.Process(pid).status() == psutil.STATUS_STOPPED else "S"]
    states = []
    for task in tasks.iterdir():
        try:
            states.append((task / "stat").read_text().rpartition(") ")[2][0])
        except FileNotFoundError:  # it has ended meanwhile
            continue
    return states
