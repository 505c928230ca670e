"""Whether a request may come in, before anybody looks at what it asks for."""

from collections.abc import Sequence

import attrs

from chatflow.domain.admission.addresses import Client, TrustedProxies
from chatflow.domain.admission.origins import AllowedHosts, AllowedOrigins, Authority, WebOrigin

BAD_REQUEST, FORBIDDEN, MISDIRECTED = 400, 403, 421
"""Statuses; the last one says that this server does not answer for that name (RFC 9110, section 15.5.20)."""


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
    """

    hosts: AllowedHosts = attrs.field(factory=AllowedHosts)
    origins: AllowedOrigins = attrs.field(factory=AllowedOrigins)
    proxies: TrustedProxies = attrs.field(factory=TrustedProxies)
    is_open: bool = False
    ports: set[int] = attrs.field(factory=set)

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

    def is_allowed(self, arrival: Arrival) -> bool:
        """Whether its one ``Origin`` is ours or may come in; its ``Host`` is one that we answer for."""
        origin = WebOrigin.parse(arrival.origins[0]) if len(arrival.origins) == 1 else None
        if origin is None:
            return self.origins.is_any
        return self.is_own(origin, arrival) or origin in self.origins

    def is_own(self, origin: WebOrigin, arrival: Arrival) -> bool:
        """Whether it is the site of our own page."""
        host = Authority.parse(arrival.hosts[0])
        if host is None or (arrival.client.is_secure and origin.scheme != "https"):
            return False
        is_same_machine = origin.authority.name == host.name or (origin.authority.is_loopback and host.is_loopback)
        return origin.is_of(host) or (is_same_machine and origin.port in self.ports)
