"""Rules that span several settings."""

import itertools
from collections.abc import Mapping
from typing import Literal

import attrs

from chatflow.domain.admission.addresses import is_loopback_host
from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.environment import SettingsError
from chatflow.entrypoints.settings.fields import variable_of, variables_of
from chatflow.entrypoints.settings.messages import MessageSettings
from chatflow.entrypoints.settings.roles import ProcessorSettings, Settings

Start = Literal["up", "gateway", "processor", "api", "tool"]
"""What a process is started as; ``tool`` is every command that needs only the common part, such as ``audit``."""

_SHARED: Mapping[Start, tuple[str, ...]] = {
    "gateway": ("broker_url", "database_url"),
    "processor": ("broker_url", "database_url"),
    "api": ("database_url",),
}
"""What a role in a process of its own must share with others."""

_WHY: Mapping[str, str] = {
    "broker_url": "must name a broker, such as amqp://user:password@host/vhost: an embedded one cannot be shared",
    "database_url": "must name the database that this role shares with the others",
}


def check_order(limits: MessageSettings, processor: ProcessorSettings) -> None:
    """Require that thresholds rise.

    Raises:
        SettingsError: a lower threshold is above an upper one.
    """
    ladders: tuple[tuple[attrs.AttrsInstance, tuple[str, ...]], ...] = (
        (limits, ("username_min_chars", "username_max_chars")),
        (processor, ("batch_small", "batch_medium", "batch_large")),
        (processor, ("batch_medium_depth", "batch_large_depth")),
    )
    for group, names in ladders:
        for lower, upper in itertools.pairwise(names):
            low, high = getattr(group, lower), getattr(group, upper)
            if low > high:
                reason = f"must not be below {_variable(type(group), lower)} ({high} < {low})"
                raise SettingsError(_variable(type(group), upper), reason)


def check_ports(start: Start, settings: Settings) -> None:
    """Require that no two listeners of one process share a port; other roles may run on another machine.

    Raises:
        SettingsError: two do.
    """
    groups: dict[Start, tuple[attrs.AttrsInstance, ...]] = {
        "up": (settings.gateway, settings.processor, settings.api),
        "gateway": (settings.gateway,),
    }
    taken: dict[int, str] = {}
    for group in groups.get(start, ()):
        ports = [field for field, _ in variables_of(type(group)) if field.name.endswith("_port")]
        for field in ports:
            number, name = getattr(group, field.name), variable_of(field)
            if number and taken.setdefault(number, name) != name:
                raise SettingsError(name, f"must differ from {taken[number]} (both are {number})")


def check_shared(start: Start, common: Common) -> None:
    """Require that a role in a process of its own can reach its peers.

    Raises:
        SettingsError: its broker or database is private to this process.
    """
    private = {"broker_url": common.is_embedded, "database_url": "CHATFLOW_DATABASE_URL" not in common.origins}
    for name in _SHARED.get(start, ()):
        if private[name]:
            raise SettingsError(_variable(Common, name), f"{_WHY[name]} (role {start}; `chatflow up` needs none)")


def check_auth(start: Start, common: Common) -> None:
    """Require that whoever lets other machines in has said how clients prove who they are.

    Raises:
        SettingsError: nobody has.
    """
    if start == "tool" or "CHATFLOW_AUTH" in common.origins or is_loopback_host(common.host):
        return
    raise SettingsError(
        "CHATFLOW_AUTH",
        f"must be set to open or jwt, because CHATFLOW_HOST={common.host} lets other machines in (role {start})",
    )


def check_tls(common: Common) -> None:
    """Require a certificate with its key, or neither.

    Raises:
        SettingsError: one of them is missing.
    """
    given = {"CHATFLOW_TLS_CERT": common.tls.tls_cert, "CHATFLOW_TLS_KEY": common.tls.tls_key}
    for name, other in itertools.permutations(given):
        if given[name] and not given[other]:
            raise SettingsError(other, f"must be set too, because {name} is: TLS needs both")


def check_proxy_protocol(common: Common) -> None:
    """Require that a PROXY header can be read.

    Raises:
        SettingsError: the listeners expect TLS before it, or no proxy is trusted to send one.
    """
    if not common.proxy_protocol:
        return
    if common.tls.is_on:
        raise SettingsError(
            "CHATFLOW_PROXY_PROTOCOL", "cannot be on with CHATFLOW_TLS_CERT: its header comes before TLS"
        )
    if not common.trusted_proxies:
        raise SettingsError("CHATFLOW_PROXY_PROTOCOL", "needs CHATFLOW_TRUSTED_PROXIES: only those may send its header")


def _variable(group: type[attrs.AttrsInstance], name: str) -> str:
    return variable_of(getattr(attrs.fields(group), name))
