"""List settings: every variable there is, and the effective values."""

from collections.abc import Iterator

import attrs

from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.environment import Origin
from chatflow.entrypoints.settings.fields import variable_of, variables_of
from chatflow.entrypoints.settings.identity import IdentitySettings
from chatflow.entrypoints.settings.messages import MessageSettings
from chatflow.entrypoints.settings.rates import RateSettings
from chatflow.entrypoints.settings.roles import ApiSettings, GatewaySettings, ProcessorSettings, Settings
from chatflow.entrypoints.settings.transport import TlsSettings

_GROUPS: tuple[type[attrs.AttrsInstance], ...] = (
    Common,
    IdentitySettings,
    TlsSettings,
    MessageSettings,
    RateSettings,
    GatewaySettings,
    ProcessorSettings,
    ApiSettings,
)


def all_variables() -> Iterator[tuple[str, str, str]]:
    """Name, default and one-line meaning of every variable, in the order of declaration."""
    for group in _GROUPS:
        defaults = group()
        for field, variable in variables_of(group):
            yield variable_of(field), variable.shown(getattr(defaults, field.name)), variable.meaning


def describe(settings: Settings) -> list[tuple[str, str, Origin]]:
    """Name, value and origin of every effective setting, passwords masked."""
    rows: dict[str, tuple[str, str, Origin]] = {}
    for group in _walk(settings):
        for field, variable in variables_of(type(group)):
            name = variable_of(field)
            row = (name, variable.shown(getattr(group, field.name)), settings.common.origins.get(name, "default"))
            rows.setdefault(name, row)
    return list(rows.values())


def _walk(group: attrs.AttrsInstance) -> Iterator[attrs.AttrsInstance]:
    yield group
    for field in attrs.fields(type(group)):
        part = getattr(group, field.name)
        if attrs.has(type(part)):
            yield from _walk(part)
