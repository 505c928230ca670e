"""The file that a SQLite URL names."""

from sqlalchemy import make_url


def sqlite_path(url: str) -> str:
    """The file of a SQLite URL.

    Raises:
        ValueError: it names none: threads cannot share an in-memory database.
    """
    path = make_url(url).database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise ValueError("database URL: SQLite needs a plain file path")
    return path
