"""Whoever comes without the right token gets nothing: every operation, every kind of token, every place for it."""

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from chatflow.adapters.jwt.authenticator import JwtAuthenticator
from chatflow.adapters.jwt.keys import OneKey, secret_key
from chatflow.domain.identity.claims import ClaimRules
from chatflow.domain.identity.recent_tokens import RecentTokens
from chatflow.ports.identity import Principal
from tests.harness.process import UpProcess
from tests.harness.tokens import SECRET, bad_tokens, token_of
from tests.harness.waiting import eventually
from tests.harness.ws_client import OPTIONS, WsClient
from tests.integration.gateway_harness import Gateway, chat, new_id, now_us, open_gateway, send

BAD = bad_tokens()
TOKENS = {
    "no token": None,
    "expired": BAD["expired"][0],
    "wrong audience": BAD["wrong audience"][0],
    "wrong algorithm": BAD["wrong algorithm"][0],
    "none": BAD["none"][0],
    "changed body": BAD["changed body"][0],
    "no token at all": "hello",
    "read only": token_of(7, "ada", {"room": "lobby", "may": "r"}),
    "write only": token_of(7, "ada", {"room": "lobby", "may": "w"}),
    "other room": token_of(7, "ada", {"room": "den", "may": "rw"}),
    "a pattern": token_of(7, "ada", {"room": "lob*", "may": "rw"}),
    "no grants": token_of(grants=[]),
    "admin": token_of(grants=[], admin=True),
}
MAY_READ = {"read only", "a pattern", "admin"}
MAY_WRITE = {"write only", "a pattern", "admin"}
GOOD = {"read only", "write only", "other room", "a pattern", "no grants", "admin"}
REFUSED = {token for kind, token in TOKENS.items() if token is not None and kind not in GOOD}
CARRIERS = ["hello", "bearer", "subprotocol"]


def authenticator(leeway_s: int = 30) -> RecentTokens:
    rules = ClaimRules(leeway_s=leeway_s)
    return RecentTokens(JwtAuthenticator(OneKey(secret_key(SECRET)), "chatflow", rules), time.monotonic, now_us)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with open_gateway(authenticator=authenticator()) as opened:
        yield opened


@contextlib.asynccontextmanager
async def peer(gateway: Gateway, path: str, token: str | None, carrier: str) -> AsyncIterator[WsClient]:
    """A client that brings its token, on ``/ws`` perhaps in the hello, which it says in any case."""
    options: dict[str, object] = {}
    if carrier == "bearer" and token is not None:
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if carrier == "subprotocol" and token is not None:
        options["subprotocols"] = ["chatflow.v1", f"chatflow.token.{token}"]
    async with connect(gateway.url(path), proxy=None, **(OPTIONS | options)) as connection:
        client = WsClient(connection)
        if token is not None:
            assert token not in str(connection.response.headers)
        if path == "/ws" and (carrier == "hello" or token not in REFUSED):
            with contextlib.suppress(ConnectionError):
                await client.send({"op": "hello", **({"token": token} if carrier == "hello" and token else {})})
        yield client


async def outcome(client: WsClient, *wanted: str) -> str:
    """The code of the first answer that is an error, the close code, or the last of what was wanted."""
    from websockets.exceptions import ConnectionClosed

    try:
        for op in wanted:
            answer = await client.receive()
            if answer.get("op") == "error" or answer.get("status") == "error":
                return str(answer.get("code") or answer["errorMessage"])
            assert answer.get("op", answer.get("status")) == op
    except ConnectionClosed:
        code, reason = await client.closed()
        assert reason
        return str(code)
    return wanted[-1]


def entrance(kind: str, carrier: str) -> str | None:
    """What happens to whoever has no good token; ``None`` to the others."""
    if kind in GOOD:
        return None
    return "unauthorized" if carrier == "hello" or kind == "no token" else "4401"


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", TOKENS)
async def test_joins_and_sends_are_allowed_as_the_token_says(gateway, kind, carrier):
    async with peer(gateway, "/ws", TOKENS[kind], carrier) as client:
        assert await outcome(client, "welcome") == (entrance(kind, carrier) or "welcome")
        if entrance(kind, carrier) == "4401":
            return
        for item, op, may in (
            ({"op": "join", "room": "lobby"}, "joined", MAY_READ),
            (send("lobby"), "ack", MAY_WRITE),
            (send("lobby", ack="stored"), "ack", MAY_WRITE),
        ):
            await client.send(item)
            found = await client.receive()
            while found["op"] == "message":
                found = await client.receive()
            word = found.get("code", found["op"])
            assert word == (op if kind in may else "forbidden" if kind in GOOD else "unauthorized"), item
    assert bool(gateway.texts("lobby")) <= (kind in MAY_WRITE)


@pytest.mark.parametrize("carrier", CARRIERS[1:])
@pytest.mark.parametrize("kind", TOKENS)
async def test_chat_frames_are_accepted_as_the_token_says(gateway, kind, carrier):
    async with peer(gateway, "/chat/lobby", TOKENS[kind], carrier) as client:
        if kind not in GOOD:
            assert await outcome(client, "success") == "4401"
            return
        await client.send(chat(userId="7", username="ada"))
        expected = "success" if kind in MAY_WRITE else "the token does not allow writing to room lobby"
        assert await outcome(client, "success") == expected


@pytest.mark.parametrize("fields", [{"userId": "8", "username": "ada"}, {"userId": "7", "username": "eve"}])
@pytest.mark.parametrize("kind", ["a pattern", "admin"])
async def test_a_chat_frame_with_another_user_is_refused_and_stored_nowhere(gateway, fields, kind):
    async with peer(gateway, "/chat/lobby", TOKENS[kind], "bearer") as client:
        await client.send(chat(**fields), chat(userId="7", username="ada", message="mine"))
        assert "is not the token's" in await outcome(client, "success")
        assert await outcome(client, "success") == "success"
    await eventually(lambda: gateway.texts("lobby") == ["mine"])


@pytest.mark.parametrize("carrier", CARRIERS[1:])
@pytest.mark.parametrize("kind", TOKENS)
async def test_feeds_show_what_the_token_may_read(gateway, kind, carrier):
    async with peer(gateway, "/chat/lobby", TOKENS["admin"], "bearer") as writer:
        await writer.send(chat(userId="7", username="ada", message="secret"))
        await writer.receive()
    await eventually(lambda: gateway.texts("lobby") == ["secret"])
    async with peer(gateway, "/feed/lobby?since=0", TOKENS[kind], carrier) as client:
        if kind in MAY_READ:
            assert (await client.receive())["message"] == "secret"
        else:
            code, _ = await client.closed()
            assert code == (4403 if kind in GOOD else 4401)


@pytest.mark.parametrize("path", ["/feed/room5?since=0", "/feed/5?since=0", "/feed/%35?since=0"])
async def test_no_spelling_of_a_room_gets_around_a_grant(gateway, path):
    token = token_of(
        7, "ada", {"room": "room*", "may": "rw"}, {"room": "%35", "may": "rw"}, grants=[{"room": "room*", "may": "rw"}]
    )
    async with peer(gateway, path, token, "bearer") as client:
        assert (await client.closed())[0] == 4403


async def test_every_bad_token_is_refused_and_none_is_echoed(gateway):
    for name, (token, fault) in BAD.items():
        if token.isascii() and len(token) < 8000:
            async with peer(gateway, "/ws", None, "hello") as client:
                await client.receive()
                await client.send({"op": "hello", "token": token})
                text = await client.receive_text()
                assert '"code":"unauthorized"' in text, (name, fault)
                assert len(token) < 6 or token not in text


async def test_a_session_ends_with_its_token_while_messages_and_history_are_under_way():
    async with open_gateway(authenticator=authenticator(leeway_s=0)) as gateway:
        token = token_of(7, "ada", exp=int(time.time()) + 2)
        async with peer(gateway, "/ws", token, "hello") as client:
            assert "expiresAt" in await client.expect("welcome")
            await client.send({"op": "join", "room": "lobby", "since": 0}, send("lobby", "in time"))
            assert await client.closed() == (4403, "the token has expired")
        async with peer(gateway, "/feed/lobby", token, "bearer") as late:
            assert await late.closed() == (4401, "the token has expired")
        assert gateway.texts("lobby") == ["in time"]
        assert len(gateway.context.roster) == 0


async def test_what_a_grant_allowed_is_refused_again_when_it_comes_again_after_its_end(gateway):
    """The same frame, the same id: what was acknowledged before is no way in."""
    wide, narrow = token_of(7, "ada"), token_of(7, "ada", {"room": "den", "may": "rw"})
    again = send("lobby", "hi", id=new_id(), ack="stored")
    async with peer(gateway, "/ws", wide, "hello") as client:
        await client.expect("welcome")
        await client.send({"op": "join", "room": "lobby"})
        await client.expect("joined")
        await client.send(again)
        await client.collect("ack", 1)
        await client.send({"op": "refresh", "token": narrow})
        await client.collect("refreshed", 1)
        assert (await client.expect("left"))["room"] == "lobby"
        await client.send(again, {"op": "join", "room": "lobby", "since": 0})
        assert [(await client.expect("error"))["code"] for _ in range(2)] == ["forbidden", "forbidden"]
        async with peer(gateway, "/chat/lobby", wide, "bearer") as other:
            await other.send(chat(userId="7", username="ada", message="not for you"))
            await other.receive()
        await eventually(lambda: gateway.texts("lobby") == ["hi", "not for you"])
        await client.silence()


async def test_a_refresh_cannot_change_the_user(gateway):
    async with peer(gateway, "/ws", token_of(7, "ada"), "hello") as client:
        await client.expect("welcome")
        for token in (token_of(1, "root", admin=True), BAD["none"][0], BAD["expired"][0]):
            await client.send({"op": "refresh", "token": token}, send("lobby"))
            assert (await client.expect("error"))["code"] in {"forbidden", "unauthorized"}
            await client.expect("ack")
    await eventually(lambda: len(gateway.texts("lobby")) == 3)
    assert {row.message.user_id for row in gateway.store.rooms["lobby"]} == {7}


async def test_frames_before_the_answer_wait_bounded_and_in_order():
    @attrs.define
    class Slow:
        inner: RecentTokens
        may_answer: asyncio.Event = attrs.field(factory=asyncio.Event)

        async def principal(self, token: str) -> Principal:
            await self.may_answer.wait()
            return await self.inner.principal(token)

    slow = Slow(authenticator())
    async with open_gateway(authenticator=slow) as gateway, gateway.peer("/ws") as client:
        await client.send(
            [{"op": "hello", "token": token_of()}, send("lobby", "0")], *(send("lobby", str(n)) for n in range(1, 50))
        )
        raw = await gateway.raw("/ws")  # and one that floods meanwhile is not read on
        raw.send({"op": "hello", "token": token_of()})
        flood = asyncio.create_task(_flood(raw))
        await gateway_is_paused(gateway)
        assert gateway.metrics.messages_received == 0
        slow.may_answer.set()
        await client.expect("welcome")
        assert len(await client.collect("ack", 50)) == 50
        await eventually(lambda: gateway.texts("lobby") == [str(n) for n in range(50)])
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        await raw.close()


async def _flood(raw) -> None:
    while True:
        raw.send(*({"op": "leave", "room": "x" * 60} for _ in range(50)))
        await raw.writer.drain()


async def gateway_is_paused(gateway: Gateway) -> None:
    await eventually(lambda: any(each.is_stopped for each in gateway.server._open.connections))
    assert gateway.context.memory.total_bytes < 2**20


async def test_whoever_is_disconnected_is_gone_and_may_not_come_back_while_revoked():
    @attrs.define
    class Revoked:
        users: set[int] = attrs.field(factory=set)

        def is_revoked(self, principal: Principal) -> bool:
            return principal.user_id in self.users

    revoked = Revoked()
    async with open_gateway(authenticator=authenticator(), revocations=revoked) as gateway:
        async with (
            peer(gateway, "/ws", token_of(7), "hello") as ada,
            peer(gateway, "/feed/lobby", token_of(7), "bearer") as feed,
            peer(gateway, "/ws", token_of(8, "eve"), "hello") as eve,
        ):
            await ada.expect("welcome")
            await eve.expect("welcome")
            await eventually(lambda: len(gateway.context.roster) == 3)
            revoked.users.add(7)
            assert gateway.context.roster.disconnect(revoked.is_revoked, 4403, "the token was revoked") == 2
            assert await ada.closed() == await feed.closed() == (4403, "the token was revoked")
            await eve.send(send("lobby", ack="stored"))
            await eve.expect("ack")
        async with peer(gateway, "/ws", token_of(7), "hello") as ada:
            assert await outcome(ada, "welcome") == "unauthorized"
        async with peer(gateway, "/chat/lobby", token_of(7), "subprotocol") as ada:
            assert await outcome(ada, "success") == "4401"


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_gateway_on_documented_parts_alone_asks_for_tokens_too(carrier):
    async with open_gateway(authenticator=authenticator(), server={"driver_fallback": True}) as gateway:
        async with peer(gateway, "/ws", TOKENS["a pattern"], carrier) as client:
            assert await outcome(client, "welcome") == "welcome"
        async with peer(gateway, "/ws", TOKENS["expired"], carrier) as client:
            assert await outcome(client, "welcome") == entrance("expired", carrier)
        async with peer(gateway, "/feed/lobby", TOKENS["other room"], "bearer") as client:
            assert (await client.closed())[0] == 4403


async def test_only_our_subprotocol_is_ever_selected(gateway):
    token = token_of()
    for offered, selected in (
        ([f"chatflow.token.{token}"], None),
        ([f"chatflow.token.{token}", "chatflow.v1"], "chatflow.v1"),
        (["graphql-ws"], None),
    ):
        async with connect(gateway.url("/ws"), proxy=None, subprotocols=offered) as connection:
            assert connection.subprotocol == selected
            assert token not in str(connection.response.headers)


async def test_a_real_process_takes_tokens_from_the_command_and_tells_nobody_of_them(tmp_path: Path):
    settings = {"CHATFLOW_AUTH": "jwt", "CHATFLOW_JWT_SECRET": SECRET, "CHATFLOW_LOG_LEVEL": "debug"}
    server = UpProcess(tmp_path, settings)
    issued = server.run("token", "issue", "--user", "7", "--name", "Zoë", "--room", "room5:rw", "--metrics")
    token = issued.stdout.strip()
    assert (issued.returncode, token.count(".")) == (0, 2)
    server.start()
    try:
        await server.ready()
        url = f"ws://127.0.0.1:{server.gateway_port}"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{url}/ws?token={token}", proxy=None):
                pass
        assert refused.value.response.status_code == 400
        assert token not in str(refused.value.response.body)
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(f"{url}/chat/5", proxy=None, additional_headers=headers) as connection:
            await connection.send(json.dumps(chat(userId="7", username="Zoe")))
            assert json.loads(await connection.recv())["status"] == "success"
        async with connect(
            f"{url}/ws", proxy=None, subprotocols=["chatflow.v1", f"chatflow.token.{token}"]
        ) as connection:
            await connection.send(json.dumps({"op": "hello"}))
            assert json.loads(await connection.recv())["username"] == "Zoe"
            await connection.send(json.dumps({"op": "hello", "token": token[:-5]}))
            await connection.recv()
        metrics = http.client.HTTPConnection("127.0.0.1", server.health_port)
        metrics.request("GET", "/metrics", headers=headers)
        shown = metrics.getresponse().read().decode()
        metrics.close()
        assert "chatflow_gateway_tokens_accepted_total 2.0" in shown
    finally:
        assert server.stop() == 0
    for text in (shown, server.log_text, server.run("config").stdout):
        assert SECRET not in text
        for part in token.split(".")[1:]:
            assert part not in text
