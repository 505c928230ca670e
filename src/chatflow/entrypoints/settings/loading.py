"""Load all settings at start into frozen values."""

import os
from collections.abc import Mapping
from pathlib import Path

from chatflow.entrypoints.settings.checks import (
    Start,
    check_auth,
    check_order,
    check_ports,
    check_proxy_protocol,
    check_shared,
    check_tls,
)
from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.environment import read_assignments, read_group
from chatflow.entrypoints.settings.identity import IdentitySettings
from chatflow.entrypoints.settings.listing import all_variables
from chatflow.entrypoints.settings.messages import MessageSettings
from chatflow.entrypoints.settings.rates import RateSettings
from chatflow.entrypoints.settings.roles import ApiSettings, GatewaySettings, ProcessorSettings, Settings
from chatflow.entrypoints.settings.token_keys import check_identity
from chatflow.entrypoints.settings.transport import TlsSettings


def load_settings(
    start: Start, environ: Mapping[str, str] = os.environ, dotenv: Path | None = Path(".env")
) -> Settings:
    """Read and check the settings of every role, whichever of them starts.

    The environment wins over the ``.env`` file, which may be absent.

    Raises:
        SettingsError: an unknown variable, an invalid value, values that contradict each other, a broker or
            database that this role could not share with its peers, or a listener for other machines without
            ``CHATFLOW_AUTH``, or tokens that nobody could check.
    """
    assignments = read_assignments(environ, dotenv, [name for name, _, _ in all_variables()])
    tls = read_group(TlsSettings, assignments)
    common = read_group(Common, assignments, origins=assignments.origins, tls=tls)
    limits = read_group(MessageSettings, assignments)
    rates = read_group(RateSettings, assignments)
    settings = Settings(
        common,
        read_group(GatewaySettings, assignments, common=common, limits=limits, rates=rates),
        read_group(ProcessorSettings, assignments, common=common),
        read_group(ApiSettings, assignments, common=common, limits=limits),
        read_group(IdentitySettings, assignments, common=common, limits=limits),
    )
    check_order(limits, settings.processor)
    check_ports(start, settings)
    check_shared(start, common)
    check_auth(start, common)
    check_proxy_protocol(common)
    check_identity(start, common, settings.identity)
    check_tls(common)
    return settings
