"""Check server URLs before anything connects.

The real parsers are imported only for a URL that needs them: they take long to import.
"""

from urllib.parse import urlsplit

from chatflow.adapters.redis import address as redis_address
from chatflow.entrypoints.settings.urls import split_urls

NO_HOST = "needs a host, and a port from 1 to 65535 if any; write @ : / ? # in a password as %40 %3A %2F %3F %23"


def check_broker(value: str) -> None:
    """Accept ``memory://`` and any list of URLs with hosts.

    Raises:
        ValueError: says what is wrong and quotes nothing, since a quote might hold part of a password.
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
        if "?" in part:
            from chatflow.adapters.rabbitmq.address import parse

            parse(part)


def check_database(value: str) -> None:
    """Accept a SQLite file, and a MySQL server with valid parameters.

    Raises:
        ValueError: says what is wrong.
    """
    if value.startswith("sqlite"):
        from chatflow.adapters.sql.sqlite.url import sqlite_path

        sqlite_path(value)
    else:
        from chatflow.adapters.sql.mysql.url import driver_arguments

        driver_arguments(value)


def check_cache(value: str) -> None:
    """Accept ``memory://`` and whatever the Redis adapter can parse.

    Raises:
        ValueError: says what is wrong.
    """
    if not value.startswith("memory:"):
        redis_address.check_files(redis_address.parse(value))
