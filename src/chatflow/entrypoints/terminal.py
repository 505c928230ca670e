"""Text of clients on an operator's terminal: what would steer the terminal, or hide what is written, is escaped.

Escaped are control characters but newline and tab, the marks that change the direction of text (Unicode, UAX 9; Boucher
and Anderson: Trojan Source, 2021), line separators, and lone surrogates.
"""

import re

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with ``\x1b`` and the like for each such character."""
    return _STEERING.sub(_escaped, text)


def visible_json(text: str) -> str:
    """JSON that means the same and holds no such character."""
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
