"""Frozen attrs groups whose fields are environment variables.

A field names its variable (``message_max_chars`` is ``CHATFLOW_MESSAGE_MAX_CHARS``) and carries its default, its rule
and its meaning, so that reading, listing and documenting settings all follow the one declaration. What is given is
read once: the process environment first, then the ``.env`` file; an empty value counts as not given.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
from dotenv.parser import parse_stream
from environs import Env, EnvError, validate

PREFIX = "CHATFLOW_"
_RULE = "chatflow.rule"

Source = Literal["default", "environment", ".env"]
Group = TypeVar("Group", bound=attrs.AttrsInstance)


class SettingsError(Exception):
    """The process cannot start as configured; the text is one line that names the variable.

    Attributes:
        variable: the full name, or the file that could not be read.
    """

    def __init__(self, variable: str, reason: str) -> None:
        self.variable = variable
        super().__init__(f"{variable} {reason}")


@attrs.frozen
class Rule:
    """How one variable is read.

    Attributes:
        parse: takes the reader and the variable's name; raises ``EnvError``.
        meaning: one line for people.
        is_url: its text may carry a password and is masked wherever it is shown.
    """

    parse: Callable[[Env, str], Any]
    meaning: str
    is_url: bool = False

    def shown(self, value: object) -> str:
        """The value as text that may be printed and logged."""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return masked(str(value)) if self.is_url else str(value)


@attrs.frozen
class Given:
    """What the operator set, by full variable name; nothing empty."""

    values: Mapping[str, str]
    sources: Mapping[str, Source]


class _GivenEnv(Env):
    """environs over the given values alone, so that a caller and not the process decides what is read."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self._given = given.values

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._given.get(env_key, default)


def variable_of(field: "attrs.Attribute[Any]") -> str:
    """The environment variable of a field."""
    return PREFIX + field.name.upper()


def _field(rule: Rule, default: Any) -> Any:
    return attrs.field(default=default, metadata={_RULE: rule}, repr=masked if rule.is_url else True)


def _checked(error: str, read: Callable[[Env, str], Any]) -> Callable[[Env, str], Any]:
    """The same reader, saying what is expected instead of what went wrong inside."""

    def parse(env: Env, name: str) -> Any:
        try:
            return read(env, name)
        except EnvError as exc:
            raise EnvError(error) from exc

    return parse


def integer(default: int, meaning: str, *, least: int = 1, most: int | None = None) -> Any:
    """A whole number within bounds, inclusive."""
    bounds = f"{least} or more" if most is None else f"{least} to {most}"
    within = validate.Range(min=least, max=most)
    parse = _checked(f"must be a whole number, {bounds}", lambda env, name: env.int(name, validate=within))
    return _field(Rule(parse, meaning), default)


def port(default: int, meaning: str) -> Any:
    """A TCP port; 0 lets the system choose a free one."""
    return integer(default, meaning, least=0, most=65535)


def seconds(default: float, meaning: str) -> Any:
    """A positive, finite time in seconds."""
    above = validate.Range(min=0, min_inclusive=False)
    parse = _checked("must be a number of seconds above 0", lambda env, name: env.float(name, validate=above))
    return _field(Rule(parse, meaning), default)


def choice(default: str, meaning: str, options: Iterable[str]) -> Any:
    """One of a few words, whatever the case; the value is spelt as in ``options``."""
    by_folded = {option.casefold(): option for option in options}

    def parse(env: Env, name: str) -> str:
        text = env.str(name)
        if text.casefold() not in by_folded:
            hint = _did_you_mean(text.casefold(), by_folded)
            raise EnvError(f"must be one of {', '.join(by_folded.values())}{hint}")
        return by_folded[text.casefold()]

    return _field(Rule(parse, meaning), default)


def flag(default: bool, meaning: str) -> Any:
    """True or false, in any of the usual spellings."""
    parse = _checked("must be true or false", lambda env, name: env.bool(name))
    return _field(Rule(parse, meaning), default)


def text(default: str, meaning: str, *, pattern: str = "", expected: str = "") -> Any:
    """Free text, or text that matches a pattern as a whole."""

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
        if pattern and not re.fullmatch(pattern, value):
            raise EnvError(f"must be {expected}")
        return value

    return _field(Rule(parse, meaning), default)


def directory(default: Path, meaning: str) -> Any:
    """A path; need not exist yet."""
    return _field(Rule(lambda env, name: env.path(name), meaning), default)


def url(
    default: Any,
    meaning: str,
    *,
    schemes: Sequence[str],
    many: bool = False,
    check: Callable[[str], object] = lambda _: None,
) -> Any:
    """A URL that begins with one of ``schemes``.

    Args:
        default: or a factory of it.
        meaning: in one line.
        schemes: with the ``://``.
        many: a comma-separated list of one scheme is allowed.
        check: raises ``ValueError`` with what is wrong.
    """

    def parse(env: Env, name: str) -> str:
        value = env.str(name)
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

    return _field(Rule(parse, meaning, is_url=True), default)


def _scheme(value: str, schemes: Sequence[str]) -> str | None:
    return next((scheme for scheme in schemes if value.startswith(scheme)), None)


def split_urls(value: str) -> tuple[str, ...]:
    """The members of a comma-separated list; a comma inside a URL does not split it."""
    return tuple(part.strip() for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", value))


def masked(value: str) -> str:
    """URLs with every password replaced; masks too much rather than too little."""
    return ",".join(_masked_one(part) for part in split_urls(value))


def _masked_one(value: str) -> str:
    value = re.sub(r"(://[^/@:?#]*:).*(@)", r"\1***\2", value)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret)=)[^&#]*", r"\1***", value)


def given_by(environ: Mapping[str, str], dotenv: Path | None, known: Sequence[str]) -> Given:
    """Merge the environment over the ``.env`` file.

    Raises:
        SettingsError: the file cannot be parsed, or a ``CHATFLOW_`` variable is none of ``known``.
    """
    from_file = _read_dotenv(dotenv) if dotenv is not None else {}
    merged: dict[str, str] = {}
    sources: dict[str, Source] = {}
    layers: tuple[tuple[Source, Mapping[str, str]], ...] = ((".env", from_file), ("environment", environ))
    for source, variables in layers:
        for name, value in variables.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known:
                raise SettingsError(name, f"is not a setting of chatflow ({source}){_did_you_mean(name, known)}")
            if value.strip():
                merged[name] = value.strip()
                sources[name] = source
    return Given(merged, sources)


def _read_dotenv(path: Path) -> dict[str, str]:
    """Values as written: nothing is interpolated, so a ``$`` in a password is a ``$``."""
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(str(path), f"cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}") from exc
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingsError(str(path), f"line {binding.original.line} is not NAME=value")
    return {binding.key: binding.value or "" for binding in bindings if binding.key is not None}


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def read_group(group: type[Group], given: Given, **parts: Any) -> Group:
    """Build one group from what is given; the rest keeps its default. ``parts`` are its nested groups.

    Raises:
        SettingsError: a value breaks its variable's rule.
    """
    env = _GivenEnv(given)
    for field, rule in rules_of(group):
        name = variable_of(field)
        if name not in given.values:
            continue
        try:
            parts[field.name] = rule.parse(env, name)
        except EnvError as exc:
            raise SettingsError(name, f"{exc} (it is {rule.shown(given.values[name])!r})") from exc
    return group(**parts)


def rules_of(group: type[attrs.AttrsInstance]) -> Iterator[tuple["attrs.Attribute[Any]", Rule]]:
    """The variables of one group, in the order of declaration; its nested groups are left out."""
    return ((field, field.metadata[_RULE]) for field in attrs.fields(group) if _RULE in field.metadata)
