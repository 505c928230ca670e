"""Whether a request may come in, before anybody looks at what it asks for."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import attrs

from chatflow.domain.admission.addresses import Client, TrustedProxies, parse_address
from chatflow.domain.admission.metrics import AdmissionMetrics
from chatflow.domain.admission.origins import ANY, AllowedHosts, AllowedOrigins, Authority, WebOrigin
from chatflow.ports.audit_trail import AuditTrail

BAD_REQUEST, FORBIDDEN, MISDIRECTED = 400, 403, 421
"""Statuses; the last one says that this server does not answer for that name (RFC 9110, section 15.5.20)."""

HeaderValues = Callable[[str], Sequence[str]]
"""The values of a request's header, by its name, in the order in which they came."""

BearsToken = Callable[[str, HeaderValues], Awaitable[bool]]
"""Whether the request for this path carries a valid token, or has to bring one before it gets anything."""

Standing = Literal["local", "proxy", "remote"]


@attrs.frozen
class Arrival:
    """What a request says of where it comes from and where it wants to go.

    Attributes:
        hosts: values of ``Host``.
        origins: values of ``Origin``.
        client: see `TrustedProxies.client`.
        fetch_site: value of ``Sec-Fetch-Site``, which a browser sends and its pages cannot write.
        is_navigation: the browser shows the answer to its user and to no page.
    """

    hosts: Sequence[str]
    origins: Sequence[str]
    client: Client
    fetch_site: str = ""
    is_navigation: bool = False

    @classmethod
    def of(cls, values: HeaderValues, client: Client) -> "Arrival":
        """From the headers of a request."""
        site, mode = values("Sec-Fetch-Site"), values("Sec-Fetch-Mode")
        return cls(values("Host"), values("Origin"), client, site[0] if site else "", "navigate" in mode)


@attrs.frozen
class Rejection:
    """Why a request may not come in.

    Attributes:
        status: of the answer.
        code: one word for programs.
        reason: one line for people; names the setting to change.
        unless_token: it may after all if it carries a valid token.
    """

    status: int
    code: str
    reason: str
    unless_token: bool = False


NO_HOST = Rejection(BAD_REQUEST, "bad_request", "a request needs exactly one Host header with a host in it")
OTHER_HOST = Rejection(
    MISDIRECTED, "host_not_allowed", "this server does not answer for this Host; see CHATFLOW_ALLOWED_HOSTS"
)
OTHER_ORIGIN = Rejection(
    FORBIDDEN, "origin_not_allowed", "pages of this Origin may not come in; see CHATFLOW_ALLOWED_ORIGINS"
)
NO_ORIGIN = Rejection(
    FORBIDDEN,
    "origin_required",
    "without an Origin header only clients on this machine or with a token may come in; see CHATFLOW_AUTH",
    unless_token=True,
)


async def no_token(_path: str, _values: HeaderValues) -> bool:
    """A `BearsToken` where there are none."""
    return False


@attrs.define(eq=False)
class Admission:
    """The rules of one process for all its ports.

    Attributes:
        hosts: names of ours.
        origins: foreign sites that may come in.
        proxies: whose word on a client's address counts.
        is_open: somebody has set ``CHATFLOW_AUTH=open`` by hand, so programs need not come from this machine.
        ports: where our own pages may be served: at the host that a request names, or at any loopback name if it names
            one. Grows as listeners start.
        metrics: of one role.
        audit_trail: told who may not come in; ``None`` where nobody keeps one.
    """

    hosts: AllowedHosts = attrs.field(factory=AllowedHosts)
    origins: AllowedOrigins = attrs.field(factory=AllowedOrigins)
    proxies: TrustedProxies = attrs.field(factory=TrustedProxies)
    is_open: bool = False
    ports: set[int] = attrs.field(factory=set)
    metrics: AdmissionMetrics = attrs.field(factory=AdmissionMetrics)
    audit_trail: AuditTrail | None = attrs.field(default=None, kw_only=True)

    def client(self, peer: str, values: HeaderValues) -> Client:
        """Who has sent a request; see `TrustedProxies.client`."""
        return self.proxies.client(peer, values("X-Forwarded-For"), values("X-Forwarded-Proto"))

    def standing(self, peer: str) -> Standing:
        """What the other end of a connection is: of two with the same standing, the same request is judged alike."""
        address = parse_address(peer)
        if address is None:
            return "remote"
        if address in self.proxies:
            return "proxy"
        return "local" if address.is_loopback else "remote"

    async def rejection(
        self, path: str, values: HeaderValues, client: Client, bears_token: BearsToken, *, needs_origin: bool = True
    ) -> Rejection | None:
        """Whether a request may come in, its token considered; ``None``: yes. Counts and records what may not."""
        rejection = self.judge(Arrival.of(values, client), needs_origin=needs_origin)
        if rejection is None or (rejection.unless_token and await bears_token(path, values)):
            return None
        self.metrics.requests_rejected += 1
        if self.audit_trail is not None:
            origin = next(iter(values("Origin")), "")
            self.audit_trail.denied(rejection.code, client.address, path=path, origin=origin)
        return rejection

    def judge_host(self, hosts: Sequence[str]) -> Rejection | None:
        """Whether we answer for this ``Host``; ``None``: yes."""
        host = Authority.parse(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return NO_HOST
        return None if host in self.hosts else OTHER_HOST

    def judge(self, arrival: Arrival, *, needs_origin: bool = True) -> Rejection | None:
        """Whether a request may come in; ``None``: yes.

        Args:
            arrival: says where it comes from.
            needs_origin: without an ``Origin`` it has to be a trusted program's; not so for what anybody may see.
        """
        if (rejection := self.judge_host(arrival.hosts)) is not None:
            return rejection
        if arrival.origins:
            return None if self.is_allowed(arrival) else OTHER_ORIGIN
        if not needs_origin or arrival.fetch_site == "same-origin":
            return None
        if arrival.fetch_site in {"cross-site", "same-site"} and not arrival.is_navigation:
            return OTHER_ORIGIN
        return None if self.is_open or arrival.client.is_loopback else NO_ORIGIN

    @property
    def has_guests(self) -> bool:
        """Answers differ by ``Origin``: foreign sites may come in."""
        return self.origins != AllowedOrigins()

    def is_allowed(self, arrival: Arrival) -> bool:
        """Whether its one ``Origin`` is ours or may come in; its ``Host`` is one that we answer for."""
        origin = WebOrigin.parse(arrival.origins[0]) if len(arrival.origins) == 1 else None
        if origin is None:
            return self.origins.is_any
        return self._is_own(origin, arrival) or origin in self.origins

    def allow_origin(self, arrival: Arrival) -> str:
        """``Access-Control-Allow-Origin`` for what was let in; ``""``: its page needs none."""
        if self.origins.is_any:
            return ANY
        origin = WebOrigin.parse(arrival.origins[0]) if arrival.origins else None
        return "" if origin is None or self._is_own(origin, arrival) else arrival.origins[0]

    def _is_own(self, origin: WebOrigin, arrival: Arrival) -> bool:
        host = Authority.parse(arrival.hosts[0])
        if host is None or (arrival.client.is_secure and origin.scheme != "https"):
            return False
        is_same_machine = origin.authority.name == host.name or (origin.authority.is_loopback and host.is_loopback)
        return origin.is_of(host) or (is_same_machine and origin.port in self.ports)
