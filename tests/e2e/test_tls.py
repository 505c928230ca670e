"""``chatflow up`` with TLS on every port."""

import asyncio
import json
import re
import ssl
import urllib.request
from pathlib import Path

from tests.harness.certificates import DAY, Authority
from tests.harness.process import UpProcess
from tests.harness.waiting import eventually
from tests.harness.ws_client import client_of


class EncryptedUp(UpProcess):
    """Everything is asked for over TLS."""

    trust: ssl.SSLContext

    def fetch(self, port: int, path: str) -> bytes:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", timeout=5, context=self.trust) as answer:
            content: bytes = answer.read()
            return content

    async def is_fit(self) -> bool:
        try:
            await asyncio.gather(*(asyncio.to_thread(self.fetch, port, "/health") for port in self.ports[1:]))
        except OSError:
            return False
        return True


async def test_every_port_speaks_tls_and_follows_a_renewal(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue("127.0.0.1", "localhost")
    settings = {"CHATFLOW_TLS_CERT": str(files.certificate), "CHATFLOW_TLS_KEY": str(files.key)}
    settings["CHATFLOW_AUDIT_LOG"] = str(tmp_path / "audit.log")
    up = EncryptedUp(tmp_path / "data", settings)
    up.trust = authority.trust()
    up.start()
    try:
        await up.ready()
        config = await asyncio.to_thread(up.fetch, up.api_port, "/config.json")
        assert json.loads(config)["gatewayUrl"] == f"wss://127.0.0.1:{up.port}/ws"
        metrics = await asyncio.to_thread(up.fetch, up.health_port, "/metrics")
        assert re.search(rb"tls_handshakes_total [1-9]", metrics)
        assert re.search(rb"tls_certificate_expires_at [1-9]", metrics)
        await eventually(lambda: f"https://127.0.0.1:{up.api_port}/docs" in up.log_text, "the banner")
        assert f"wss://127.0.0.1:{up.port}/ws" in up.log_text
        async with client_of(f"wss://127.0.0.1:{up.port}/ws", ssl=up.trust) as client:
            await client.hello()
            files.replace_by(authority.issue("127.0.0.1", lifetime=60 * DAY))
            await eventually(lambda: "tls.renewed" in up.log_text, "the renewal")
            await client.send({"op": "send", "room": "a", "text": "hi", "ack": "stored"})
            assert (await client.expect("ack"))["seq"] == 1
        assert await asyncio.to_thread(up.stop) == 0
    finally:
        up.kill()
    events = [json.loads(line)["event"] for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert events == ["process.started", "tls.renewed", "process.stopped"]
