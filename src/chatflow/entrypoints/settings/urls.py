"""Server URLs as text: comma-separated lists, and passwords masked before anything is shown."""

import re

MASK = "***"


def split_urls(value: str) -> tuple[str, ...]:
    """The URLs of a comma-separated list; a comma inside a URL does not split it."""
    return tuple(part.strip() for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", value))


def masked(value: str) -> str:
    """URLs with every password replaced; masks too much rather than too little."""
    return ",".join(_masked_one(part) for part in split_urls(value))


def _masked_one(value: str) -> str:
    value = re.sub(r"(://[^/@:?#]*:).*(@)", rf"\1{MASK}\2", value, flags=re.DOTALL)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret)=)[^&#]*", rf"\1{MASK}", value)
