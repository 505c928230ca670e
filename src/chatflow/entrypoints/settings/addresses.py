"""Whether the URLs of servers make sense, found out before anything tries to reach them.

What parses them in earnest is imported only for a URL that somebody gave, since it takes long to import.
"""

from urllib.parse import urlsplit

from chatflow.entrypoints.settings.environment import split_urls

NO_HOST = "must name a host, and its port by a number up to 65535; a password's own @ : / ? # are written %40 and so on"


def check_broker(value: str) -> None:
    """Pass ``memory://``, and any list of URLs with hosts.

    Raises:
        ValueError: what is wrong, without quoting anything, which might be part of a password.
    """
    for part in split_urls(value):
        if part.startswith("memory:"):
            continue
        try:
            parts = urlsplit(part)
            is_address = bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError(NO_HOST)


def check_database(value: str) -> None:
    """Pass a SQLite file, and a MySQL server with parameters that make sense.

    Raises:
        ValueError: what is wrong.
    """
    if value.startswith("sqlite"):
        from chatflow.adapters.sql.sqlite.url import sqlite_path

        sqlite_path(value)
    else:
        from chatflow.adapters.sql.mysql.url import driver_arguments

        driver_arguments(value)
