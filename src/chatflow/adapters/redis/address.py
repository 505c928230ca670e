"""Cache URLs: one server, the Sentinels of one, or nodes of a cluster.

    redis://user:password@host:6379/0                                  one server
    redis+sentinel://user:password@host1:26379,host2:26379/name/0      the master that Sentinels call ``name``
    redis+cluster://user:password@host1:6379,host2:6379                any nodes of a cluster

``rediss`` instead of ``redis`` means TLS. Certificate and host name are verified against the system's authorities, or
those in the file ``?ssl_ca=``. ``ssl_cert`` and ``ssl_key`` name the client's own, ``ssl_check_hostname=false`` accepts
any host name. ``sentinel_username`` and ``sentinel_password`` log in to the Sentinels.
"""

import enum
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from chatflow.ports.tls import TLS_KEYS, Tls, context_of, tls_of

SENTINEL_KEYS = frozenset({"sentinel_username", "sentinel_password"})
NO_KEYS: frozenset[str] = frozenset()


class Kind(enum.Enum):
    """How the server is found."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


SCHEMES = {
    f"{base}{suffix}": (kind, base == "rediss")
    for base in ("redis", "rediss")
    for suffix, kind in (("", Kind.SINGLE), ("+sentinel", Kind.SENTINEL), ("+cluster", Kind.CLUSTER))
}
PORTS = {Kind.SINGLE: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


@attrs.frozen
class Address:
    """A parsed URL.

    Attributes:
        nodes: host and port of the server, of its Sentinels, or of nodes that know the cluster.
        master: its name at the Sentinels, else "".
        tls: ``None`` for unencrypted connections.
    """

    kind: Kind
    nodes: tuple[tuple[str, int], ...]
    master: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: Tls | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = attrs.field(default=None, repr=False)


def parse(url: str) -> Address:
    """Read a cache URL.

    Raises:
        ValueError: says what is wrong with it, never the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise _wrong(str(exc)) from None
    if parts.scheme not in SCHEMES:
        raise _wrong(f"the scheme is none of {', '.join(SCHEMES)}")
    if parts.fragment:
        raise _wrong("a # must be written %23")
    kind, is_tls = SCHEMES[parts.scheme]
    parameters = _parameters(
        parts, frozenset(TLS_KEYS if is_tls else ()) | (SENTINEL_KEYS if kind is Kind.SENTINEL else NO_KEYS)
    )
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    master, database = _path(kind, parts.path)
    return Address(
        kind,
        _nodes(kind, hosts),
        master,
        database,
        unquote(username) or None,
        unquote(password) or None,
        _tls(parameters) if is_tls else None,
        parameters.get("sentinel_username"),
        parameters.get("sentinel_password"),
    )


def check_files(address: Address) -> None:
    """Require that its certificates can be read.

    Raises:
        ValueError: names the file that cannot.
    """
    try:
        if address.tls is not None:
            context_of(address.tls)
    except ValueError as exc:
        raise _wrong(str(exc)) from None


def _parameters(parts: SplitResult, known: frozenset[str]) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for key, _ in pairs:
        if key not in known:
            raise _wrong(f"{key} is no parameter of {parts.scheme}://")
    if len(dict(pairs)) < len(pairs):
        raise _wrong("a parameter is given more than once")
    return dict(pairs)


def _nodes(kind: Kind, hosts: str) -> tuple[tuple[str, int], ...]:
    nodes = tuple(_node(host, PORTS[kind]) for host in hosts.split(","))
    if kind is Kind.SINGLE and len(nodes) > 1:
        raise _wrong("several hosts need redis+sentinel:// or redis+cluster://")
    return nodes


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise _wrong(f"{text}: {exc}") from None
    if not host:
        raise _wrong("a host is missing")
    if port == 0:
        raise _wrong(f"{text}: no port to connect to")
    return host, default_port if port is None else port


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """The master's name and the database's number."""
    pieces = [unquote(piece) for piece in path.strip("/").split("/") if piece]
    master = ""
    if kind is Kind.SENTINEL:
        if not pieces:
            raise _wrong("the master's name is missing: redis+sentinel://host/name")
        master = pieces.pop(0)
    if not pieces:
        return master, 0
    if kind is Kind.CLUSTER:
        raise _wrong("a cluster has no numbered databases")
    if len(pieces) > 1 or not (pieces[0].isascii() and pieces[0].isdigit()):
        raise _wrong(f"the database is a number, not {'/'.join(pieces)}")
    return master, int(pieces[0])


def _tls(parameters: dict[str, str]) -> Tls:
    try:
        return tls_of(parameters)
    except ValueError as exc:
        raise _wrong(str(exc)) from None


def _wrong(what: str) -> ValueError:
    return ValueError(f"cache URL: {what}")
