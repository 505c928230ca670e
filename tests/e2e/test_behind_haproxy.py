"""A whole chatflow behind HAProxy, which ends TLS: who the client is, whatever it says."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.conftest import need
from tests.harness import haproxy
from tests.harness.certificates import Authority
from tests.harness.haproxy import balancer
from tests.harness.process import RoleProcess, UpProcess, run_command
from tests.harness.ws_client import client_of

SECRET = "of a test, and long enough for HS256"


class UpBehind(UpProcess):
    """Its health port needs no PROXY header."""

    async def is_fit(self) -> bool:
        return await RoleProcess.is_fit(self)


@pytest.mark.parametrize("name", ["haproxy.cfg", pytest.param("haproxy-proxy-protocol.cfg", marks=pytest.mark.long)])
async def test_the_trail_knows_the_client_behind_it(tmp_path: Path, authority: Authority, name: str) -> None:
    need(haproxy.missing() is None, haproxy.missing() or "")
    with_header = name != "haproxy.cfg"
    settings = {
        "CHATFLOW_AUTH": "jwt",
        "CHATFLOW_JWT_SECRET": SECRET,
        "CHATFLOW_TRUSTED_PROXIES": "127.0.0.1",
        "CHATFLOW_PROXY_PROTOCOL": str(with_header).lower(),
        "CHATFLOW_AUDIT_LOG": str(tmp_path / "audit.log"),
    }
    up = UpBehind(tmp_path / "data", settings)
    issued = await asyncio.to_thread(
        run_command, tmp_path, settings, "token", "issue", "--user", "7", "--name", "ada", "--room", "a:rw"
    )
    token = issued.stdout.strip()
    up.start()
    try:
        await up.ready()
        with balancer(tmp_path, authority, name, gateway=up.port, api=up.api_port) as proxy:
            await proxy.ready()
            forged = {"X-Forwarded-For": "10.9.9.9"} if not with_header else {}
            async with client_of(
                f"wss://localhost:{proxy.port}/ws",
                ssl=proxy.trust,
                host="127.0.0.1",
                local_addr=("127.0.0.7", 0),
                additional_headers=forged | {"Authorization": f"Bearer {token}"},
            ) as client:
                await client.send({"op": "hello"})
                assert (await client.expect("welcome"))["op"] == "welcome"
            if not with_header:
                config = await proxy.ask(
                    "GET /config.json HTTP/1.1\nHost: localhost\nConnection: close", source="127.0.0.7"
                )
                assert b" 200 " in config
    finally:
        up.kill()
    entries = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    signed_in = [entry for entry in entries if entry["event"] == "session.signed_in"]
    assert [(entry["user_id"], entry["address"]) for entry in signed_in] == [(7, "127.0.0.7")]
    assert token not in (tmp_path / "audit.log").read_text() + up.log_text
