"""All settings of every role, parsed once at start into frozen values.

Every variable is checked whichever role starts, so that the first process refuses a ``.env`` file that is wrong for any
part of the fleet. Defaults are those of ``chatflow up``; a role in a process of its own refuses an embedded broker,
because its peers could not reach it.
"""

from chatflow.entrypoints.settings.checks import Start
from chatflow.entrypoints.settings.common import Common, Profile
from chatflow.entrypoints.settings.environment import SettingsError
from chatflow.entrypoints.settings.identity import IdentitySettings
from chatflow.entrypoints.settings.listing import all_variables, describe
from chatflow.entrypoints.settings.loading import load_settings
from chatflow.entrypoints.settings.messages import MessageSettings
from chatflow.entrypoints.settings.rates import RateSettings
from chatflow.entrypoints.settings.roles import (
    ApiSettings,
    GatewaySettings,
    ProcessorSettings,
    Settings,
)
from chatflow.entrypoints.settings.secret_files import check_secrecy
from chatflow.entrypoints.settings.transport import TlsSettings

__all__ = [
    "ApiSettings",
    "Common",
    "GatewaySettings",
    "IdentitySettings",
    "MessageSettings",
    "ProcessorSettings",
    "Profile",
    "RateSettings",
    "Settings",
    "SettingsError",
    "Start",
    "TlsSettings",
    "all_variables",
    "check_secrecy",
    "describe",
    "load_settings",
]
