"""From a database URL to the driver's arguments: address, and TLS."""

from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from chatflow.ports.tls import TLS_KEYS, context_of, flag_of, tls_of

KNOWN_KEYS = ("ssl", *TLS_KEYS, "charset", "connect_timeout", "unix_socket")
"""Other arguments of the driver are chatflow's to choose."""


def driver_arguments(url: str) -> tuple[URL, dict[str, Any]]:
    """The URL without its TLS parameters, and the driver's arguments.

    ``?ssl=true`` trusts the system's authorities, ``?ssl_ca=file`` those in the file; the certificate and the host
    name are verified either way, the name not with ``ssl_check_hostname=false``. ``ssl_cert`` and ``ssl_key`` name
    the client's own.

    Raises:
        ValueError: a parameter that makes no sense, or a file that cannot be read.
    """
    try:
        parsed = make_url(url)
    except (ValueError, ArgumentError):  # quotes the port, which may be part of a password
        raise ValueError("database URL: it cannot be read, or its port is no number") from None
    if strange := sorted(parsed.query.keys() - {*KNOWN_KEYS}):
        known = ", ".join(KNOWN_KEYS)
        raise ValueError(f"database URL: no parameter {strange[0]!r}, but {known}")
    given = {key: _single(parsed, key) for key in ("ssl", *TLS_KEYS) if key in parsed.query}
    arguments: dict[str, Any] = {"local_infile": False}
    try:
        is_on = flag_of(given, "ssl", default=bool(given))
        tls = tls_of(given)
        if is_on:
            arguments["ssl"] = context_of(tls)
    except ValueError as exc:
        raise ValueError(f"database URL: {exc}") from exc
    if len(given) > 1 and not is_on:
        raise ValueError("database URL: ssl is off, but other ssl parameters are given")
    return parsed.difference_update_query(given), arguments


def _single(url: URL, key: str) -> str:
    value = url.query[key]
    if not isinstance(value, str):
        raise ValueError(f"database URL: {key} is given more than once")  # noqa: TRY004 - the URL's fault
    return value
