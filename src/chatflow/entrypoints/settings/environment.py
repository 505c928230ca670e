"""Read setting groups from the process environment, the ``.env`` file, and the files that either names.

The environment wins over ``.env``. An empty value counts as not set. Any variable ``X`` may come as ``X_FILE``, the
path of a file that holds its value; both at once are refused, wherever they stand, since one would be an old secret.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
from dotenv.parser import parse_stream
from environs import Env, EnvError

from chatflow.entrypoints.settings.fields import PREFIX, did_you_mean, variable_of, variables_of
from chatflow.entrypoints.settings.secret_files import SUFFIX, read_secret

Origin = Literal["default", "environment", ".env", "file"]
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
    """What the operator set, by full variable name, without empty values.

    Attributes:
        origins: where each value stood; ``file`` is one that a variable with ``_FILE`` named.
    """

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
        SettingsError: the file cannot be parsed, a ``CHATFLOW_`` variable is not in ``known``, or the file that a
            variable names is refused.
    """
    from_file = _read_dotenv(dotenv) if dotenv is not None else {}
    values: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    layers: tuple[tuple[Origin, Mapping[str, str]], ...] = ((".env", from_file), ("environment", environ))
    for origin, variables in layers:
        for name, value in variables.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known and name.removesuffix(SUFFIX) not in known:
                raise SettingsError(name, f"is not a setting of chatflow ({origin}){did_you_mean(name, known)}")
            if value.strip():
                values[name] = value.strip()
                origins[name] = origin
    for name in [name for name in values if name not in known]:
        _read_named_file(name, values, origins)
    return Assignments(values, origins)


def _read_named_file(name: str, values: dict[str, str], origins: dict[str, Origin]) -> None:
    """Put the value that is in a file in the place of the file's name."""
    target, path = name.removesuffix(SUFFIX), values.pop(name)
    if target in values:
        raise SettingsError(name, f"and {target} are both set ({origins[name]}, {origins[target]}); set one of them")
    try:
        values[target] = read_secret(Path(path))
    except ValueError as exc:
        raise SettingsError(name, f"names {path}, which {exc}") from None
    del origins[name]
    origins[target] = "file"


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
            is_hidden = assignments.origins[name] == "file"  # it may be any file by mistake
            found = f"from {name}{SUFFIX}" if is_hidden else repr(variable.shown(assignments.values[name]))
            raise SettingsError(name, f"{exc} (it is {found})") from exc
    return group(**parts)
