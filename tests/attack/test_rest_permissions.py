"""Whoever reads over HTTP gets what the token permits, whichever tier would answer, and nothing more."""

import time

import aiohttp
import attrs
import pytest
from prometheus_client import CollectorRegistry

from chatflow.adapters.aiohttp.bearer import Bearers
from chatflow.adapters.aiohttp.health import HealthReport, build_health
from chatflow.adapters.aiohttp.server import serve
from chatflow.adapters.jwt.authenticator import JwtAuthenticator
from chatflow.adapters.jwt.keys import OneKey, secret_key
from chatflow.domain.identity.claims import ClaimRules
from chatflow.domain.identity.recent_tokens import RecentTokens
from chatflow.ports.errors import IdentityUnavailable, TokenFault
from tests.api_harness import Api, open_api
from tests.harness.tokens import SECRET, bad_tokens, token_of
from tests.integration.gateway_harness import now_us

BAD = {kind: token for kind, (token, _) in bad_tokens().items()}
LOBBY = {"room": "lobby", "may": "r"}
GOOD = {
    "read only": token_of(7, "ada", LOBBY),
    "write only": token_of(7, "ada", {"room": "lobby", "may": "w"}),
    "other room": token_of(7, "ada", {"room": "den", "may": "rw"}),
    "pattern": token_of(7, "ada", {"room": "lob*", "may": "r"}),
    "other user": token_of(8, "bob", LOBBY),
    "no grants": token_of(7, "ada", grants=[]),
    "metrics": token_of(9, "probe", grants=[], metrics=True),
    "admin": token_of(1, "root", grants=[], admin=True),
}
ROOM = "/api/messages/room?roomId=lobby"
OWN = ("/api/messages/user?userId=7", "/api/users/rooms?userId=7")
FIGURES = (
    "/api/users/active",
    "/api/analytics/throughput",
    "/api/analytics/top-users",
    "/api/analytics/top-rooms",
    "/api/analytics/patterns",
    "/api/metrics",
    "/api/health",
    "/metrics",
)
MAY: dict[str, set[str]] = {
    ROOM: {"read only", "pattern", "other user", "admin"},
    **{path: {"read only", "write only", "other room", "pattern", "no grants", "admin"} for path in OWN},
    **{path: {"metrics", "admin"} for path in FIGURES},
    "/api/all": {"admin"},
}
ANYBODY = ("/health", "/config.json", "/openapi.json", "/")


@attrs.define(eq=False)
class Revoked:
    """Revocations by token id."""

    ids: set[str] = attrs.field(factory=set)

    def is_revoked(self, principal):
        return principal.token_id in self.ids


@attrs.define(eq=False)
class Trail:
    denials: list[tuple[str, str, str]] = attrs.field(factory=list)

    def denied(self, reason, address, *, operation, path, user_id, detail):
        assert (operation, address) == ("read", "127.0.0.1")
        self.denials.append((reason, path, detail))


@pytest.fixture
def bearers():
    inner = JwtAuthenticator(OneKey(secret_key(SECRET)), "chatflow", ClaimRules())
    return Bearers(RecentTokens(inner, time.monotonic, now_us), Revoked(), Trail())


@pytest.fixture(params=["direct", "public"])
async def api(bearers, request):
    async with open_api(listens=True, bearers=bearers, fallback=request.param == "public") as opened:
        for _ in range(3):
            await opened.commit("lobby", user_id=7)
        yield opened


async def ask(api: Api, path: str, token: str | None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with api.http.get(path, headers=headers) as response:
        return response.status, dict(response.headers), await response.read()


def is_sendable(token: str | None) -> bool:
    """HTTP has it as it is: in ASCII, stripped, and in a header that is not too long."""
    return token is None or (token.isascii() and token == token.strip() and len(token) < 8000)


@pytest.mark.parametrize("path", MAY)
async def test_a_read_is_answered_to_whom_the_token_permits_it_fresh_cached_and_conditional(api, path):
    warm, tag = GOOD["admin"], ""
    for _ in range(3):
        status, headers, body = await ask(api, path, warm)
        assert status == 200
        tag = headers.get("ETag", "")
        assert "Authorization" in headers["Vary"]
        assert body
    conditional = {"If-None-Match": tag} if tag else {}
    for kind, token in GOOD.items():
        for more in ({}, {}, conditional, {"If-None-Match": "*"}):
            status, headers, body = await ask(api, path, token, **more)
            if kind in MAY[path]:
                assert status in (200, 304), (path, kind)
            else:
                assert (status, b"forbidden" in body) == (403, True), (path, kind)
                assert 'error="insufficient_scope"' in headers["WWW-Authenticate"]
                assert "ETag" not in headers
    for kind, token in [("no token", None), *BAD.items()]:
        if not is_sendable(token):
            continue
        for more in ({}, conditional, {"If-None-Match": "*"}):
            status, headers, body = await ask(api, path, token, **more)
            assert (status, b"unauthorized" in body) == (401, True), (path, kind)
            assert headers["WWW-Authenticate"].startswith("Bearer ")
            assert token is None or len(token) < 9 or token.encode() not in body


@pytest.mark.parametrize("path", ANYBODY)
async def test_probes_and_the_page_need_no_token(api, path):
    for token in (None, GOOD["no grants"], BAD["expired"]):
        assert (await ask(api, path, token))[0] == 200


async def test_a_room_is_permitted_by_its_stored_name(api):
    five = token_of(7, "ada", {"room": "room5", "may": "r"})
    for name, status in (("5", 200), ("room5", 200), ("room05", 403), ("55", 403)):
        assert (await ask(api, f"/api/messages/room?roomId={name}", five))[0] == status


async def test_the_same_bytes_on_the_same_connection_are_judged_again(api, bearers):
    token, known = token_of(7, "ada", LOBBY, jti="t1"), bearers.authenticator
    for asked in range(1, 4):
        assert (await ask(api, ROOM, token))[0] == 200
        assert (known.hits, known.misses) == (asked - 1, 1)
    bearers.revocations.ids.add("t1")
    status, _, body = await ask(api, ROOM, token)
    assert (status, b"revoked" in body) == (401, True)
    bearers.revocations.ids.clear()
    assert (await ask(api, ROOM, token))[0] == 200
    assert bearers.audit_trail.denials == [("bad_token", "/api/messages/room", TokenFault.REVOKED.value)]


async def test_a_token_in_a_url_is_refused_and_not_repeated(api):
    good = GOOD["admin"]
    for name in ("token", "access_token"):
        for path in (f"{ROOM}&{name}={good}", f"/metrics?{name}={good}", f"/api/health?{name}={good}"):
            status, _, body = await ask(api, path, None)
            assert (status, name.encode() in body, good.encode() in body) == (400, True, False)


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer  ", "Basic YTpi", "Token x"])
async def test_another_scheme_or_an_empty_one_is_no_token(api, value):
    async with api.http.get(ROOM, headers={"Authorization": value}) as response:
        assert response.status == 401


async def test_two_tokens_are_none(api):
    headers = [("Authorization", f"Bearer {GOOD['admin']}"), ("Authorization", f"Bearer {GOOD['no grants']}")]
    async with api.http.get(ROOM, headers=headers) as response:
        assert response.status == 401


async def test_while_nobody_can_check_tokens_nobody_reads_and_may_try_again(api, bearers, monkeypatch):
    async def away(_self, _token):
        raise IdentityUnavailable

    monkeypatch.setattr(RecentTokens, "principal", away)
    status, headers, _ = await ask(api, ROOM, GOOD["admin"])
    assert (status, headers["Retry-After"]) == (503, "1")


async def test_metrics_of_every_role_ask_for_a_token_and_health_does_not(bearers):
    async def health():
        return HealthReport(ok=True)

    app = build_health("processor", health, CollectorRegistry(), bearers=bearers)
    server = await serve(app, host="127.0.0.1", port=0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as http:
            for path, token, status in (
                ("/health", None, 200),
                ("/metrics", None, 401),
                ("/metrics", GOOD["no grants"], 403),
                ("/metrics", GOOD["metrics"], 200),
            ):
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                async with http.get(path, headers=headers) as response:
                    assert response.status == status, path
    finally:
        await server.close()


async def test_a_permitted_answer_is_kept_by_its_reader_alone(api):
    _, headers, _ = await ask(api, ROOM, GOOD["read only"])
    assert headers["Cache-Control"] == "private, no-cache"
