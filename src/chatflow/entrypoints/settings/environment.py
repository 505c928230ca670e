"""Read setting groups from the process environment and the ``.env`` file.

The environment wins over the file. An empty value counts as not set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
from dotenv.parser import parse_stream
from environs import Env, EnvError

from chatflow.entrypoints.settings.fields import PREFIX, did_you_mean, variable_of, variables_of

Origin = Literal["default", "environment", ".env"]
Group = TypeVar("Group", bound=attrs.AttrsInstance)


class SettingsError(Exception):
    """The process cannot start as configured; the text is one line that names the variable.

    Attributes:
        variable: its full name, or the path of an unreadable ``.env`` file.
    """

    def __init__(self, variable: str, reason: str) -> None:
        self.variable = variable
        super().__init__(f"{variable} {reason}")


@attrs.frozen
class Assignments:
    """What the operator set, by full variable name, without empty values."""

    values: Mapping[str, str]
    origins: Mapping[str, Origin]


class _AssignedEnv(Env):
    """environs over the assignments alone: it reads nothing from the process environment."""

    def __init__(self, assignments: Assignments) -> None:
        super().__init__()
        self._assigned = assignments.values

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._assigned.get(env_key, default)


def read_assignments(environ: Mapping[str, str], dotenv: Path | None, known: Sequence[str]) -> Assignments:
    """Merge the environment over the ``.env`` file.

    Raises:
        SettingsError: the file cannot be parsed, or a ``CHATFLOW_`` variable is not in ``known``.
    """
    from_file = _read_dotenv(dotenv) if dotenv is not None else {}
    values: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    layers: tuple[tuple[Origin, Mapping[str, str]], ...] = ((".env", from_file), ("environment", environ))
    for origin, variables in layers:
        for name, value in variables.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known:
                raise SettingsError(name, f"is not a setting of chatflow ({origin}){did_you_mean(name, known)}")
            if value.strip():
                values[name] = value.strip()
                origins[name] = origin
    return Assignments(values, origins)


def _read_dotenv(path: Path) -> dict[str, str]:
    """Values as written, without interpolation: a ``$`` in a password stays a ``$``."""
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


def read_group(group: type[Group], assignments: Assignments, **parts: Any) -> Group:
    """Build one group from the assignments; other fields keep their defaults. ``parts`` are its nested groups.

    Raises:
        SettingsError: a value is invalid.
    """
    env = _AssignedEnv(assignments)
    for field, variable in variables_of(group):
        name = variable_of(field)
        if name not in assignments.values:
            continue
        try:
            parts[field.name] = variable.parse(env, name)
        except EnvError as exc:
            raise SettingsError(name, f"{exc} (it is {variable.shown(assignments.values[name])!r})") from exc
    return group(**parts)
