"""A database's files, which only their owner may open."""

import os
from contextlib import suppress

OWN_FILE = 0o600


def close_to_others(path: str) -> None:
    """Create the database file if there is none, and close it and those beside it to other users.

    SQLite gives its log and its shared memory the mode of the database (``findCreateFileMode`` in its os_unix.c).

    Raises:
        OSError: the file cannot be created.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWN_FILE))
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError, PermissionError):
            os.chmod(name, OWN_FILE)  # noqa: PTH101 - of a text as SQLite gets it
