"""Whoever is shut out is out: sessions end, reconnects and reads are refused, also by a process that starts later."""

import http.client
import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.harness.ports import free_port
from tests.harness.process import UpProcess, run_command
from tests.harness.tokens import SECRET, token_of
from tests.harness.ws_client import OPTIONS, WsClient

JWT = {"CHATFLOW_AUTH": "jwt", "CHATFLOW_JWT_SECRET": SECRET, "CHATFLOW_REVOCATION_POLL_S": "0.05"}
ADA, EVE, BOB = token_of(7, jti="t7"), token_of(8, "eve", jti="t8"), token_of(9, "bob", jti="t9")
GONE = 4403, "the token was revoked"


def ask(port: int, path: str, token: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def dial(server: UpProcess, path: str, token: str) -> connect:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"ws://127.0.0.1:{server.gateway_port}{path}"
    return connect(url, proxy=None, additional_headers=headers, **OPTIONS)


async def is_refused(server: UpProcess, token: str, user_id: int) -> None:
    """On every way in."""
    for path in ("/chat/lobby", "/feed/lobby"):
        async with dial(server, path, token) as connection:
            assert await WsClient(connection).closed() == (4401, "the token was revoked")
    async with connect(f"ws://127.0.0.1:{server.gateway_port}/ws", proxy=None, **OPTIONS) as connection:
        client = WsClient(connection)
        await client.send({"op": "hello", "token": token})
        error = await client.expect("error")
        assert (error["code"], error["message"]) == ("unauthorized", "the token was revoked")
    for path in ("/api/messages/room?roomId=lobby", f"/api/messages/user?userId={user_id}"):
        status, body = ask(server.api_port, path, token)
        assert (status, "revoked" in body) == (401, True)


async def is_welcome(server: UpProcess, token: str) -> None:
    async with dial(server, "/ws", token) as connection:
        client = WsClient(connection)
        await client.send({"op": "hello"})
        await client.expect("welcome")
    assert ask(server.api_port, "/api/messages/room?roomId=lobby", token)[0] == 200


async def test_whoever_is_disconnected_stays_out_also_of_a_process_that_starts_later_without_redis(tmp_path: Path):
    trail = tmp_path / "audit.log"
    server = UpProcess(tmp_path, JWT | {"CHATFLOW_AUDIT_LOG": str(trail)})
    server.start()
    try:
        await server.ready()
        for token in (ADA, EVE, BOB):
            await is_welcome(server, token)
        async with (
            dial(server, "/feed/lobby", ADA) as feed,
            dial(server, "/ws", ADA) as ws,
            dial(server, "/ws", EVE) as other,
            dial(server, "/ws", BOB) as third,
        ):
            sessions = [WsClient(each) for each in (ws, other, third)]
            for client in sessions:
                await client.send({"op": "hello"})
                await client.expect("welcome")
            done = server.run("sessions", "disconnect", "7")
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("every token of user 7 issued up to now is refused for 30d")
            assert await sessions[0].closed() == await WsClient(feed).closed() == GONE
            done = server.run("sessions", "disconnect", "--token-id", "t8", "--keep", "1h")
            assert (done.returncode, done.stdout.startswith("token t8 is refused for 1h")) == (0, True)
            assert await sessions[1].closed() == GONE
            await sessions[2].send({"op": "send", "room": "lobby", "text": "still here", "ack": "stored"})
            await sessions[2].expect("ack")
        await is_refused(server, ADA, 7)
        await is_refused(server, EVE, 8)
        await is_welcome(server, BOB)
        shown = ask(server.health_port, "/metrics", token_of(1, admin=True))[1]
        assert "chatflow_gateway_sessions_revoked_total 3.0" in shown
        assert "chatflow_gateway_revocations 2.0" in shown
        server.kill()
        server.settings["CHATFLOW_CACHE_URL"] = f"redis://127.0.0.1:{free_port()}"
        server.start()
        await server.ready()
        await is_refused(server, ADA, 7)
        await is_refused(server, EVE, 8)
        await is_welcome(server, BOB)
    finally:
        server.stop()
    acted = {entry["event"]: entry for entry in map(json.loads, trail.read_text().splitlines())}
    assert acted["user.disconnected"]["user_id"] == 7
    assert acted["token.revoked"]["token_id"] == "t8"
    assert acted["token.revoked"]["by"].startswith("cli:")


@pytest.mark.parametrize(
    ("arguments", "changed", "told"),
    [
        ([], {}, "name a user id, or a token by --token-id"),
        (["7", "--keep", "soon"], {}, "--keep must be a number and a unit"),
        (["--token-id", ""], {}, "--token-id must have 1 to 255 characters"),
        (["7"], {"CHATFLOW_AUTH": "open"}, "nobody can be shut out in open mode"),
        (["7"], {}, "there is no database at"),
    ],
)
def test_the_command_says_why_nobody_was_shut_out(tmp_path: Path, arguments, changed, told):
    settings = JWT | {"CHATFLOW_DATA_DIR": str(tmp_path)} | changed
    done = run_command(tmp_path, settings, "sessions", "disconnect", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert told in done.stderr
