"""Server URLs as text: comma-separated lists, and passwords masked before anything is shown."""

import re

from chatflow.ports.tls import TLS_KEYS

MASK = "***"
SHOWN = {"ssl", *TLS_KEYS, "charset", "connect_timeout", "heartbeat", "unix_socket", "sentinel_username"}
"""Parameters whose values are shown."""


def split_urls(value: str) -> tuple[str, ...]:
    """The URLs of a comma-separated list; a comma inside a URL does not split it."""
    return tuple(part.strip() for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", value))


def masked(value: str) -> str:
    """URLs with every password replaced; masks too much rather than too little."""
    return ",".join(_masked_one(part) for part in split_urls(value))


def _masked_one(value: str) -> str:
    value = re.sub(r"(://[^/@:?#]*:).*(@)", rf"\1{MASK}\2", value, flags=re.DOTALL)
    value = re.sub(r"([?&]([^=&#]*)=)([^&#]*)", _parameter, value)
    return re.sub(r"#.*", f"#{MASK}", value, flags=re.DOTALL)


def _parameter(match: re.Match[str]) -> str:
    """Only what is known to be no secret is shown: a mistyped name may stand before a password."""
    start, name, value = match.groups()
    return start + (value if name in SHOWN else MASK)
