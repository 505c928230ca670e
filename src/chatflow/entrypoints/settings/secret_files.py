"""Read a setting's value from the file that ``CHATFLOW_..._FILE`` names, so that a secret is in no environment.

An environment is inherited by children and shown by ``docker inspect`` and ``/proc``; a file has an owner and a mode.
"""

import os
import stat
from pathlib import Path

SUFFIX = "_FILE"
LARGEST_BYTES = 65_536
RUNTIME_SECRETS = Path("/run/secrets")
"""Where container runtimes mount secrets, readable by all: nobody else is in the container."""

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def read_secret(path: Path) -> str:
    """The file's text without the newline that editors leave at its end.

    Raises:
        ValueError: says why the file is refused, never what is in it.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            _check_kind(found, path)
            content = file.read(LARGEST_BYTES + 1)
    except OSError as exc:
        raise ValueError(f"cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"is longer than {LARGEST_BYTES} bytes")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("is empty")
    if "\0" in text:
        raise ValueError("is not text: it holds a NUL")
    return text


def check_secrecy(path: Path) -> None:
    """Require that others can neither read nor change a file that somebody else reads.

    Raises:
        OSError: there is no such file.
        ValueError: it is too open.
    """
    _check_kind(path.stat(), path)


def _check_kind(found: os.stat_result, path: Path) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is no regular file")
    if os.name == "nt":
        return
    if mode & _WRITABLE:
        raise ValueError(f"is too open: others may write it (mode {mode:04o}; chmod 600)")
    if mode & stat.S_IROTH and not path.absolute().is_relative_to(RUNTIME_SECRETS):
        raise ValueError(f"is too open: everybody may read it (mode {mode:04o}; chmod 600, or 640 for a group)")


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO would keep the process waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
