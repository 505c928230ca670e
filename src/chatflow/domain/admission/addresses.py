"""The client's address: the peer of the connection, or whom a trusted proxy names in its place.

A header of forwarding counts only where the connection comes from a proxy of ``CHATFLOW_TRUSTED_PROXIES``; anybody else
could write it. It is read from the right, where the nearest proxy has written, up to the first address that is no
trusted proxy's; what stands left of that one, the client itself may have made up.
"""

import functools
import ipaddress
from collections.abc import Iterable, Sequence

import attrs

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST = 100
"""Characters of an address with its zone and port; a longer text is none, and is not remembered."""


@attrs.frozen
class Client:
    """Who has sent a request.

    Attributes:
        address: its IP address as text, the nearest one that is known; ``""`` over a socket without addresses.
        is_known: it is the client's own; otherwise it is that of a proxy, which many may share.
        is_loopback: it is known, and this machine's.
        is_secure: a trusted proxy says that the client came by ``https`` or ``wss``.
    """

    address: str
    is_known: bool = True
    is_loopback: bool = False
    is_secure: bool = False


@attrs.frozen
class TrustedProxies:
    """The networks whose hosts are believed when they name a client."""

    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, value: str) -> "TrustedProxies":
        """Addresses and networks such as ``10.0.0.0/8, ::1``, separated by commas.

        Raises:
            ValueError: names what is neither.
        """
        return cls(tuple(_network(part.strip()) for part in value.split(",") if part.strip()))

    def __contains__(self, address: IpAddress) -> bool:
        return any(address in network for network in self.networks)

    def client(self, peer: str, forwarded_for: Sequence[str] = (), forwarded_proto: Sequence[str] = ()) -> Client:
        """Who is behind this connection.

        Args:
            peer: address of its other end, or the one that a PROXY header has named.
            forwarded_for: values of ``X-Forwarded-For``, in the order of the headers.
            forwarded_proto: values of ``X-Forwarded-Proto``.
        """
        address = parse_address(peer)
        if address is None:
            return Client(peer, is_known=False)
        if address not in self:
            # Somebody's proxy that nobody has told us of: its address is not the client's.
            is_known = not forwarded_for or not address.is_loopback
            return Client(str(address), is_known=is_known, is_loopback=is_known and address.is_loopback)
        is_secure = _last(forwarded_proto) in {"https", "wss"}
        for hop in reversed([part for value in forwarded_for for part in value.split(",")]):
            named = parse_address(hop.strip())
            if named is None:
                break
            address = named
            if named not in self:
                return Client(str(named), is_loopback=named.is_loopback, is_secure=is_secure)
        return Client(str(address), is_known=False, is_secure=is_secure)


def parse_address(text: str) -> IpAddress | None:
    """An address, with a port or not; IPv4 within IPv6 is told as IPv4. ``None``: it is none."""
    return _parse_address(text) if len(text) <= _LONGEST else None


@functools.lru_cache(maxsize=1024)
def _parse_address(text: str) -> IpAddress | None:
    text = text.partition("%")[0]
    if text.startswith("["):
        text, bracket, _ = text[1:].partition("]")
        if not bracket:
            return None
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback_host(host: str) -> bool:
    """Whether a listener bound to this host is reached from this machine alone."""
    address = parse_address(host)
    return is_loopback_name(host) if address is None else address.is_loopback


def is_loopback_name(name: str) -> bool:
    """``localhost`` and what is below it (RFC 6761, section 6.3): no name server is asked for it."""
    return name == "localhost" or name.endswith(".localhost")


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network such as 10.0.0.0/8") from None


def _last(values: Iterable[str]) -> str:
    return next(reversed([part.strip().lower() for value in values for part in value.split(",")]), "")
