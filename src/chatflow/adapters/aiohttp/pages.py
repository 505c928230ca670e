"""The static pages in the package: read once at start, served from memory under a strict content policy."""

import hashlib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import attrs
import msgspec
from aiohttp import web

from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.guard import CLIENT
from chatflow.adapters.aiohttp.parameters import InvalidParameter
from chatflow.domain.admission.origins import Authority

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}
_HOME = "index.html"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{gateway}; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageLimits(msgspec.Struct, rename="camel"):
    """What the page checks before it sends."""

    message: int = 500
    username_min: int = 3
    username_max: int = 20


class PageConfig(msgspec.Struct, rename="camel"):
    """What the page needs to know of this deployment."""

    gateway_url: str
    auth: str
    limits: PageLimits


@attrs.frozen
class GatewayAddress:
    """Where the page's WebSocket goes, and who may open it.

    Attributes:
        public_url: ``ws://`` or ``wss://``; ``""``: the host that the page came from, at ``port``. Where a proxy ends
            TLS at that host's own port, it is expected to serve ``/ws`` beside the page.
        auth: ``jwt``: the page asks for a token; ``open``: for a name.
        is_encrypted: the gateway speaks TLS.
    """

    public_url: str = ""
    port: int = 8080
    auth: str = "open"
    is_encrypted: bool = False

    def url(self, request: web.Request) -> str:
        """The WebSocket address for a page that is asked for in this request."""
        if self.public_url:
            return self.public_url
        host = Authority.parse(request.host)
        if host is None:
            raise InvalidParameter("Host", "must be a host name or address")
        if request[CLIENT].is_secure and host.port is None:
            return f"wss://{host.name}/ws"
        scheme = "wss" if self.is_encrypted or request[CLIENT].is_secure else "ws"
        return f"{scheme}://{host.name}:{self.port}/ws"

    def policy_source(self, request: web.Request) -> str:
        """The same as a source of a content security policy, whose grammar has no IPv6 addresses."""
        parts = urlsplit(self.url(request))
        return f"{parts.scheme}:" if "[" in parts.netloc else f"{parts.scheme}://{parts.netloc}"


@attrs.frozen(eq=False)
class _Page:
    body: bytes
    content_type: str
    digest: str

    @classmethod
    def read(cls, file: Traversable) -> "_Page":
        body = file.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:24]
        return cls(body, _TYPES[PurePosixPath(file.name).suffix], digest)

    def answer(self, request: web.Request, policy: str) -> web.Response:
        headers = {
            "ETag": f'"{self.digest}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        if any(tag.value in (self.digest, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = self.content_type
        return web.Response(body=self.body, headers=headers)


def add_pages(app: web.Application, gateway: GatewayAddress, limits: PageLimits) -> None:
    """Serve every file of the package's ``web`` folder, the home page at ``/``, ``/docs`` and ``/config.json``."""
    for path, page in _pages():
        app.router.add_get(path, _serve(page, gateway))

    async def answer_config(request: web.Request) -> web.Response:
        body = msgspec.json.encode(PageConfig(gateway.url(request), gateway.auth, limits))
        return web.Response(body=body, content_type=JSON, headers={"Cache-Control": "no-store"})

    app.router.add_get("/config.json", answer_config)


def _pages() -> Iterator[tuple[str, _Page]]:
    for path, file in _files(resources.files("chatflow") / "web", "/"):
        page = _Page.read(file)
        yield path, page
        if path == f"/{_HOME}":
            yield "/", page
        if path == "/docs.html":
            yield "/docs", page


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif PurePosixPath(entry.name).suffix in _TYPES:
            yield f"{prefix}{entry.name}", entry


def _serve(page: _Page, gateway: GatewayAddress) -> "web._RequestHandler":  # type: ignore[name-defined]
    async def answer(request: web.Request) -> web.Response:
        return page.answer(request, _POLICY.format(gateway=f" {gateway.policy_source(request)}"))

    return answer
