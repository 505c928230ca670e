"""Setting groups are frozen attrs classes; each field declares one environment variable.

The field's name gives the variable (``message_max_chars`` is ``CHATFLOW_MESSAGE_MAX_CHARS``); its metadata holds how to
parse it and what it means. Reading, listing and documenting settings all follow this one declaration.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from environs import Env, EnvError, validate

from chatflow.entrypoints.settings.urls import MASK, masked, split_urls

PREFIX = "CHATFLOW_"
_KEY = "chatflow.variable"


@attrs.frozen
class Variable:
    """How to read and show one variable.

    Attributes:
        parse: takes the reader and the variable's name; raises ``EnvError``.
        meaning: one line for people.
        is_url: the value may hold a password, which is masked wherever it is shown.
        is_secret: the whole value is masked.
    """

    parse: Callable[[Env, str], Any]
    meaning: str
    is_url: bool = False
    is_secret: bool = False

    def shown(self, value: object) -> str:
        """The value as text that may be printed and logged."""
        if self.is_secret:
            return MASK if value else ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return masked(str(value)) if self.is_url else str(value)


def variable_of(field: "attrs.Attribute[Any]") -> str:
    """The name of a field's environment variable."""
    return PREFIX + field.name.upper()


def variables_of(group: type[attrs.AttrsInstance]) -> Iterator[tuple["attrs.Attribute[Any]", Variable]]:
    """The variables of one group in the order of declaration, without those of nested groups."""
    return ((field, field.metadata[_KEY]) for field in attrs.fields(group) if _KEY in field.metadata)


def integer(default: int, meaning: str, *, least: int = 1, most: int | None = None) -> Any:
    """A whole number within bounds, inclusive."""
    bounds = f"{least} or more" if most is None else f"{least} to {most}"
    within = validate.Range(min=least, max=most)
    parse = _expecting(f"a whole number, {bounds}", lambda env, name: env.int(name, validate=within))
    return _field(Variable(parse, meaning), default)


def port(default: int, meaning: str) -> Any:
    """A TCP port; 0 lets the system choose a free one."""
    return integer(default, meaning, least=0, most=65535)


def seconds(default: float, meaning: str) -> Any:
    """A positive, finite time in seconds."""
    above = validate.Range(min=0, min_inclusive=False)
    parse = _expecting("a number of seconds above 0", lambda env, name: env.float(name, validate=above))
    return _field(Variable(parse, meaning), default)


def choice(default: str, meaning: str, options: Iterable[str]) -> Any:
    """One of a few words in any case; the value is spelt as in ``options``."""
    by_folded = {option.casefold(): option for option in options}

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
        if value.casefold() not in by_folded:
            hint = did_you_mean(value.casefold(), by_folded)
            raise EnvError(f"must be one of {', '.join(by_folded.values())}{hint}")
        return by_folded[value.casefold()]

    return _field(Variable(parse, meaning), default)


def flag(default: bool, meaning: str) -> Any:
    """True or false, in any of the usual spellings."""
    parse = _expecting("true or false", lambda env, name: env.bool(name))
    return _field(Variable(parse, meaning), default)


def text(default: str, meaning: str, *, pattern: str = "", expected: str = "") -> Any:
    """Free text, or text that matches a pattern as a whole."""

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
        if pattern and not re.fullmatch(pattern, value):
            raise EnvError(f"must be {expected}")
        return value

    return _field(Variable(parse, meaning), default)


def secret(meaning: str) -> Any:
    """A value that is never shown; "" unless it is set. Its file, ``..._FILE``, may have several lines."""
    return _field(Variable(lambda env, name: env.str(name), meaning, is_secret=True), "")


def listed(default: str, meaning: str, *, check: Callable[[str], object]) -> Any:
    """Words separated by commas; ``check`` raises ``ValueError`` with what is wrong."""

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
        try:
            check(value)
        except ValueError as exc:
            raise EnvError(f"must be a list separated by commas: {exc}") from exc
        return value

    return _field(Variable(parse, meaning), default)


def directory(default: Path, meaning: str) -> Any:
    """A path; need not exist yet."""
    return _field(Variable(lambda env, name: env.path(name), meaning), default)


def url(
    default: Any,
    meaning: str,
    *,
    schemes: Sequence[str],
    many: bool = False,
    check: Callable[[str], object] = lambda _: None,
) -> Any:
    """A URL that starts with one of ``schemes``.

    Args:
        default: the value, or a factory of it.
        meaning: one line for people.
        schemes: with the ``://``.
        many: accept a comma-separated list with one scheme.
        check: raises ``ValueError`` with what is wrong.
    """

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
        if not value.isprintable():  # parsers drop line ends without a word
            raise EnvError("must be one line without control characters")
        parts = split_urls(value) if many else (value,)
        if not all(_scheme(part, schemes) for part in parts):
            raise EnvError(f"must start with {' or '.join(schemes)}")
        if len({_scheme(part, schemes) for part in parts}) > 1:
            raise EnvError("must not mix schemes in its list")
        try:
            check(value)
        except ValueError as exc:
            raise EnvError(str(exc)) from exc
        return value

    return _field(Variable(parse, meaning, is_url=True), default)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the closest known word, or ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _field(variable: Variable, default: Any) -> Any:
    is_shown: bool | Callable[[Any], str] = variable.shown if variable.is_url or variable.is_secret else True
    return attrs.field(default=default, metadata={_KEY: variable}, repr=is_shown)


def _expecting(expected: str, read: Callable[[Env, str], Any]) -> Callable[[Env, str], Any]:
    """The same reader with an error that says what is expected, not what failed inside."""

    def parse(env: Env, name: str) -> Any:
        try:
            return read(env, name)
        except EnvError as exc:
            raise EnvError(f"must be {expected}") from exc

    return parse


def _scheme(value: str, schemes: Sequence[str]) -> str | None:
    return next((scheme for scheme in schemes if value.startswith(scheme)), None)
