"""What every listener of a role is given of the settings: who may come in, and how many at a time."""

from urllib.parse import urlsplit

from chatflow.adapters.aiohttp.door import PortLimits
from chatflow.adapters.websockets.doorway import Doorway
from chatflow.domain.admission.addresses import TrustedProxies
from chatflow.domain.admission.origins import AllowedHosts, AllowedOrigins
from chatflow.domain.admission.rules import Admission
from chatflow.entrypoints.settings import ApiSettings, Common, GatewaySettings
from chatflow.ports.audit_trail import AuditTrail


def admission_of(
    api: ApiSettings, gateway: GatewaySettings, ports: set[int], audit_trail: AuditTrail | None = None
) -> Admission:
    """Who may come in to one role.

    ``ports`` are those that this process has bound; the page of another process is at the port that is configured.
    """
    common = api.common
    origins = AllowedOrigins.parse(common.allowed_origins)
    public = urlsplit(api.gateway_url).hostname if api.gateway_url else None
    names = AllowedHosts.parse(common.allowed_hosts).names | origins.names | ({public} if public else frozenset())
    ports |= {port for port in (api.api_port, gateway.gateway_port) if port}
    return Admission(
        AllowedHosts(names),
        origins,
        TrustedProxies.parse(common.trusted_proxies),
        common.is_open_by_hand,
        ports,
        audit_trail=audit_trail,
    )


def reading_admission_of(
    api: ApiSettings, gateway: GatewaySettings, ports: set[int], audit_trail: AuditTrail | None = None
) -> Admission:
    """The same for the REST interface, which the pages of ``CHATFLOW_CORS_ORIGIN`` may read too."""
    admission = admission_of(api, gateway, ports, audit_trail)
    admission.origins = AllowedOrigins.parse(f"{api.common.allowed_origins},{api.cors_origin}")
    return admission


def port_limits_of(common: Common, *, is_health: bool = False) -> PortLimits:
    """What the clients of one HTTP port may hold; balancers send no PROXY header to a port for health checks alone."""
    return PortLimits(
        common.http_connections_max,
        common.head_timeout_s,
        common.keepalive_s,
        proxy_protocol=common.proxy_protocol and not is_health,
    )


def doorway_of(gateway: GatewaySettings, admission: Admission) -> Doorway:
    """The handshakes of the gateway's WebSocket port."""
    common = gateway.common
    return Doorway(
        admission,
        limit=gateway.handshakes_max,
        head_timeout_s=common.head_timeout_s,
        proxy_protocol=common.proxy_protocol,
        send_buffer_bytes=gateway.send_buffer_bytes,
    )
