"""Data on this machine's disk: closed to other users, and written by one process.

The locks are the kernel's (flock(2)): they end with the process that holds them, however it ends. Their files stay, and
name the last process that took them.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from chatflow.adapters.sql.sqlite.url import sqlite_path
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common

if sys.platform != "win32":
    import fcntl

OWN_DIRECTORY, OWN_FILE = 0o700, 0o600


def has_data(common: Common) -> bool:
    """Whether the data directory is used: a broker or a database lives in this process."""
    return common.is_embedded or common.database_url.startswith("sqlite")


def make_directory(directory: Path) -> None:
    """Create a directory that only this user can open, and close an older one to others.

    Raises:
        StartError: it cannot be written.
    """
    try:
        directory.mkdir(mode=OWN_DIRECTORY, parents=True, exist_ok=True)
        if _is_for_data_only(directory):
            directory.chmod(OWN_DIRECTORY)
        probe = directory / ".writable"
        probe.touch(OWN_FILE)
        probe.unlink()
    except OSError as exc:
        raise StartError(f"CHATFLOW_DATA_DIR {directory} cannot be written: {exc.strerror}") from exc


@contextlib.contextmanager
def in_use(common: Common, *, alone: bool) -> Iterator[None]:
    """Keep others from the database file while this process uses it, and from the data directory of its broker.

    Args:
        common: names them; those of servers need no lock.
        alone: no other process may use them; otherwise only those that must be alone are kept out.

    Raises:
        StartError: names the directory and the process that uses it.
    """
    with contextlib.ExitStack() as held:
        if alone and common.is_embedded:
            held.enter_context(_locked(common.data_dir / "chatflow.lock", alone=True))
        if common.database_url.startswith("sqlite"):
            database = os.path.realpath(sqlite_path(common.database_url))
            held.enter_context(_locked(Path(f"{database}.lock"), alone=alone))
        yield


@contextlib.contextmanager
def _locked(path: Path, *, alone: bool) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=OWN_DIRECTORY, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWN_FILE)
    except OSError as exc:
        raise StartError(f"{path} cannot be opened: {exc.strerror}") from exc
    try:
        _take(file, path, alone=alone)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path, *, alone: bool) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        user = _named(os.pread(file, 32, 0))
        raise StartError(f"{path.parent} is in use by {user}: stop it first, or set CHATFLOW_DATA_DIR") from exc
    except OSError as exc:
        raise StartError(f"{path} cannot be locked: {exc.strerror}") from exc
    os.fchmod(file, OWN_FILE)
    os.ftruncate(file, 0)
    os.pwrite(file, b"%d\n" % os.getpid(), 0)


def _named(written: bytes) -> str:
    """The process that wrote this, if it still runs; several may share a lock, and the last one has gone then."""
    pid = int(written) if written.strip().isdigit() else 0
    return f"process {pid}" if pid and _runs(pid) else "another process"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _is_for_data_only(directory: Path) -> bool:
    """Open to others, this user's own, and neither a shared directory like /tmp nor one that holds other work."""
    found, here = directory.stat(), directory.resolve()
    is_own = found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
    holds_other_work = any(path.is_relative_to(here) for path in (Path.cwd(), Path.home()))
    return is_own and not holds_other_work and bool(stat.S_IMODE(found.st_mode) & ~OWN_DIRECTORY)
