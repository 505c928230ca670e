"""What a database URL says to the driver: where to connect, and how far to trust whoever answers."""

import ssl
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

TLS_KEYS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")
OTHER_KEYS = ("charset", "connect_timeout", "unix_socket")
"""The rest of what the driver takes is chatflow's own to say."""
TRUE, FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


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
    if strange := sorted(parsed.query.keys() - {*TLS_KEYS, *OTHER_KEYS}):
        known = ", ".join((*TLS_KEYS, *OTHER_KEYS))
        raise ValueError(f"database URL: no parameter {strange[0]!r}, but {known}")
    said = {key: _single(parsed, key) for key in TLS_KEYS if key in parsed.query}
    arguments: dict[str, Any] = {"local_infile": False}
    if said and (_flag(said, "ssl", default=True) or len(said) > 1):
        arguments["ssl"] = _context(said)
    return parsed.difference_update_query(TLS_KEYS), arguments


def _context(said: dict[str, str]) -> ssl.SSLContext:
    if not _flag(said, "ssl", default=True):
        raise ValueError("database URL: ssl is off, but other ssl parameters are given")
    try:
        context = ssl.create_default_context(cafile=said.get("ssl_ca"))
        if "ssl_cert" in said:
            context.load_cert_chain(said["ssl_cert"], said.get("ssl_key"))
    except OSError as exc:  # also what OpenSSL says
        raise ValueError(f"database URL: {exc}") from exc
    context.check_hostname = _flag(said, "ssl_check_hostname", default=True)
    return context


def _flag(said: dict[str, str], key: str, *, default: bool) -> bool:
    text = said.get(key)
    if text is None:
        return default
    if text.lower() not in TRUE | FALSE:
        raise ValueError(f"database URL: {key} is neither true nor false")
    return text.lower() in TRUE


def _single(url: URL, key: str) -> str:
    value = url.query[key]
    if not isinstance(value, str):
        raise ValueError(f"database URL: {key} is given more than once")  # noqa: TRY004 - the URL's fault
    return value
