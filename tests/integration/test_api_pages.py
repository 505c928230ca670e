"""Static pages over real HTTP: types, caching, and a content policy that no header of the client can widen."""

import asyncio
import re

import pytest

from chatflow.adapters.aiohttp.pages import GatewayAddress, PageLimits
from tests.api_harness import open_api


@pytest.fixture
async def api():
    async with open_api(gateway=GatewayAddress(port=8123)) as opened:
        yield opened


async def fetch(api, path, **headers):
    async with api.http.get(path, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def raw(api, request: str) -> tuple[int, str, str]:
    """Status, head and body of exactly this request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request.replace("\n", "\r\n").encode("latin-1"))
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def connect_sources(headers) -> str:
    return re.search(r"connect-src ([^;]*);", headers["Content-Security-Policy"])[1]


PAGES = [
    ("/", "text/html"),
    ("/index.html", "text/html"),
    ("/docs", "text/html"),
    ("/docs.html", "text/html"),
    ("/docs.js", "text/javascript"),
    ("/docs.css", "text/css"),
    ("/favicon.svg", "image/svg+xml"),
    ("/manifest.webmanifest", "application/manifest+json"),
]


@pytest.mark.parametrize(("path", "content_type"), PAGES)
async def test_pages_come_with_their_type_and_guards(api, path, content_type):
    status, body, headers = await fetch(api, path)
    assert status == 200
    assert len(body) > 100
    assert headers["Content-Type"].split(";")[0] == content_type
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
        assert part in policy
    assert "unsafe" not in policy


async def test_the_docs_need_nothing_from_elsewhere(api):
    for path in ("/docs.html", "/docs.js", "/docs.css"):
        _, body, _ = await fetch(api, path)
        assert re.findall(rb"""(?:https?:)?//[a-z0-9]+\.[a-z]""", body) == []
    _, html, _ = await fetch(api, "/docs")
    assert b"<style" not in html
    assert b" style=" not in html
    assert re.search(rb"<script(?![^>]* src=)", html) is None
    assert re.search(rb"\son[a-z]+=", html) is None


async def test_a_page_that_has_not_changed_is_a_304(api):
    _, _, headers = await fetch(api, "/docs")
    for known in (headers["ETag"], f"W/{headers['ETag']}", f'"other", {headers["ETag"]}'):
        status, body, again = await fetch(api, "/docs", **{"If-None-Match": known})
        assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
        assert "Content-Security-Policy" in again
    assert (await fetch(api, "/docs", **{"If-None-Match": '"other"'}))[0] == 200


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/__init__.py", "/..%2f__init__.py", "//etc/passwd", "/vendor/"]
)
async def test_nothing_outside_the_pages_is_served(api, path):
    status, _, body = await raw(api, f"GET {path} HTTP/1.1\nHost: localhost\nConnection: close\n\n")
    assert (status, '"not_found"' in body) == (404, True)


HOSTS = [
    ("localhost:9091", "ws://localhost:8123/ws", "'self' ws://localhost:8123"),
    ("chat.localhost", "ws://chat.localhost:8123/ws", "'self' ws://chat.localhost:8123"),
    ("192.168.1.7:9091", "ws://192.168.1.7:8123/ws", "'self' ws://192.168.1.7:8123"),
    ("[::1]:9091", "ws://[::1]:8123/ws", "'self' ws:"),
    ("[fe80::1]", "ws://[fe80::1]:8123/ws", "'self' ws:"),
]


@pytest.mark.parametrize(("host", "url", "sources"), HOSTS)
async def test_the_gateway_is_found_where_the_page_came_from(api, host, url, sources):
    assert (await api.get("/config.json", Host=host))[1]["gatewayUrl"] == url
    _, _, headers = await fetch(api, "/", Host=host)
    assert connect_sources(headers) == sources


@pytest.mark.parametrize(
    "host",
    [
        "evil.example; script-src *",
        "a b",
        "a,b",
        "*",
        "a'b",
        "evil.example/..",
        "user@host",
        "[::1",
        "::1",
        "host:",
        "x:1:2",
    ],
)
@pytest.mark.parametrize("path", ["/", "/docs", "/config.json"])
async def test_a_host_header_that_is_no_host_gets_no_policy(api, host, path):
    status, head, body = await raw(api, f"GET {path} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
    assert status == 400
    assert "script-src" not in head
    assert "gatewayUrl" not in body


@pytest.mark.parametrize(
    ("public_url", "source"),
    [("wss://chat.example/ws", "wss://chat.example"), ("ws://10.0.0.1:8080/ws", "ws://10.0.0.1:8080")],
)
async def test_a_configured_gateway_is_the_one_and_only(public_url, source):
    async with open_api(gateway=GatewayAddress(public_url)) as api:
        assert (await api.get("/config.json", Host="a.localhost"))[1]["gatewayUrl"] == public_url
        _, _, headers = await fetch(api, "/", Host="a.localhost")
        assert connect_sources(headers) == f"'self' {source}"


async def test_the_page_is_told_the_limits(api):
    _, body, headers = await api.get("/config.json")
    assert (set(body), body["auth"]) == ({"gatewayUrl", "auth", "limits"}, "open")
    assert body["limits"] == {"message": 500, "usernameMin": 3, "usernameMax": 20}
    assert headers["Cache-Control"] == "no-store"
    async with open_api(limits=PageLimits(message=50)) as other:
        assert (await other.body("/config.json"))["limits"]["message"] == 50


async def test_every_page_can_be_asked_by_head(api):
    async with api.http.head("/") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 100
