"""Hosts and origins: what a request calls us, and which site's page has sent it.

A name that an attacker owns can be made to point here (DNS rebinding), so a ``Host`` has to be one of our names or an
address. A page of any site can open a connection from its reader's browser (cross-site WebSocket hijacking), but cannot
choose the ``Origin`` that the browser sends (RFC 6455, section 10.2).
"""

import functools
import ipaddress
import re

import attrs

from chatflow.domain.admission.addresses import is_loopback_name

ANY = "*"
PORTS = {"http": 80, "https": 443}

_NAME = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?"
_AUTHORITY = re.compile(rf"(?P<name>(?:{_NAME})|\[[0-9a-f:.]{{2,45}}\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_PATTERN = re.compile(rf"(?:\*\.)?{_NAME}", re.ASCII)
_LONGEST = 260
"""Characters of the longest name and a port; longer texts are not remembered."""


@attrs.frozen
class Authority:
    """A host with a port, as in ``Host``.

    Attributes:
        name: in lower case, without a dot at the end; an IPv6 address in brackets.
        port: ``None``: the scheme's own.
    """

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Authority | None":
        """``None``: the text is no host."""
        return _authority(text) if len(text) <= _LONGEST else None

    @property
    def is_address(self) -> bool:
        """It is an IP address, which no name server can move."""
        return _is_address(self.name)

    @property
    def is_loopback(self) -> bool:
        """It means this machine, wherever it is written."""
        if not self.is_address:
            return is_loopback_name(self.name)
        return ipaddress.ip_address(self.name.strip("[]")).is_loopback


@attrs.frozen
class WebOrigin:
    """A site: the scheme, host and port that a page came from (RFC 6454)."""

    scheme: str
    authority: Authority

    @classmethod
    def parse(cls, text: str) -> "WebOrigin | None":
        """``None``: it is none of the web's, such as ``null``."""
        scheme, separator, rest = text.partition("://")
        authority = Authority.parse(rest)
        if not separator or scheme.lower() not in PORTS or authority is None:
            return None
        return cls(scheme.lower(), authority)

    @property
    def port(self) -> int:
        """Also when it is not written."""
        return PORTS[self.scheme] if self.authority.port is None else self.authority.port

    def is_of(self, host: Authority) -> bool:
        """Whether a page of this origin was asked for under this ``Host``."""
        port = PORTS[self.scheme] if host.port is None else host.port
        return self.authority.name == host.name and self.port == port


@attrs.frozen
class AllowedHosts:
    """The names under which we may be asked, besides addresses and loopback names.

    Attributes:
        names: in lower case; ``*`` for any, ``*.example.org`` for all below it.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, value: str) -> "AllowedHosts":
        """Names separated by commas; a port is no part of one.

        Raises:
            ValueError: names what is no host.
        """
        return cls(frozenset(_host(part.strip()) for part in value.split(",") if part.strip()))

    def __contains__(self, host: Authority) -> bool:
        return host.is_address or host.is_loopback or _fits(host.name, self.names)


@attrs.frozen
class AllowedOrigins:
    """The foreign origins whose pages may come in.

    Attributes:
        exact: scheme, name and port.
        below: scheme, name and port of ``https://*.example.org``, without the ``*``.
        is_any: every origin may.
    """

    exact: frozenset[tuple[str, str, int]] = frozenset()
    below: frozenset[tuple[str, str, int]] = frozenset()
    is_any: bool = False

    @classmethod
    def parse(cls, value: str) -> "AllowedOrigins":
        """Origins separated by commas, such as ``https://chat.example.org``; or ``*``.

        Raises:
            ValueError: names what is no origin.
        """
        parts = [part.strip() for part in value.split(",") if part.strip()]
        exact: set[tuple[str, str, int]] = set()
        below: set[tuple[str, str, int]] = set()
        for part in parts:
            if part == ANY:
                continue
            scheme, _, rest = part.partition("://")
            origin = WebOrigin.parse(f"{scheme}://{rest.removeprefix('*.')}")
            if origin is None:
                raise ValueError(
                    f"{part!r} is no origin such as https://chat.example.org (no path, no slash at the end)"
                )
            key = (origin.scheme, origin.authority.name, origin.port)
            (below if rest.startswith("*.") else exact).add(key)
        return cls(frozenset(exact), frozenset(below), ANY in parts)

    @property
    def names(self) -> frozenset[str]:
        """The hosts of all of them, as `AllowedHosts` has them."""
        return frozenset({name for _, name, _ in self.exact} | {f"*.{name}" for _, name, _ in self.below})

    def __contains__(self, origin: WebOrigin) -> bool:
        name = origin.authority.name
        if self.is_any or (origin.scheme, name, origin.port) in self.exact:
            return True
        return any((origin.scheme, above, origin.port) in self.below for above in _above(name))


@functools.lru_cache(maxsize=1024)
def _authority(text: str) -> Authority | None:
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None or not text.isascii():
        return None
    port = None if match["port"] is None else int(match["port"])
    if port is not None and port > 65535:
        return None
    name = match["name"].removesuffix(".")
    return Authority(name, port) if not name.startswith("[") or _is_address(name) else None


@functools.lru_cache(maxsize=1024)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    if text != ANY and not (_PATTERN.fullmatch(name) or _is_address(name)):
        raise ValueError(f"{text!r} is no host name such as chat.example.org (no scheme, no port)")
    return name


def _fits(name: str, names: frozenset[str]) -> bool:
    return bool(names) and (name in names or ANY in names or any(f"*.{above}" in names for above in _above(name)))


def _above(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels))]
