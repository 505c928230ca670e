"""A gateway's port with TLS: who gets in, who is timed out, and how much may wait for a slow reader."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from tests.harness.certificates import DAY, Authority
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import ENCRYPTION, Gateway, encrypted, open_gateway, send

__all__ = ["encrypted"]

pytestmark = pytest.mark.usefixtures("encrypted")
LIMIT = 128 * 2**10


@pytest.fixture(params=[False, True], ids=["direct", "fallback"])
async def gateway(request: pytest.FixtureRequest, encrypted) -> AsyncIterator[Gateway]:
    async with open_gateway(server={"driver_fallback": request.param}, outbound_limit_bytes=LIMIT) as opened:
        yield opened


async def open_plain(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def ends(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            await reader.read()
    return True


async def test_a_client_that_trusts_the_authority_chats(gateway, encrypted):
    async with gateway.session() as peer:
        await peer.send({"op": "join", "room": "a"}, send("a", "hi", ack="stored"))
        assert (await peer.expect("joined"))["head"] == 0
        assert {(await peer.receive())["op"] for _ in range(2)} == {"ack", "message"}
        assert peer.connection.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert encrypted.counts()["tls_handshakes"] == 1


def test_it_also_works_on_the_event_loop_of_the_standard_library(encrypted):
    """Where there is no uvloop; it delivers what comes with the end of a handshake in another order."""

    async def chat() -> None:
        async with open_gateway() as gateway:
            await gateway.can_chat()

    with asyncio.Runner() as runner:
        runner.run(chat())


async def test_another_authority_or_another_name_is_refused_by_the_client(gateway, encrypted, tmp_path):
    stranger = Authority(tmp_path, "somebody else").trust()
    with pytest.raises(ssl.SSLCertVerificationError):
        async with gateway.peer("/ws", ssl=stranger):
            pass
    with pytest.raises(ssl.SSLCertVerificationError):
        async with gateway.peer("/ws", server_hostname="chat.example.org"):
            pass
    await eventually(lambda: encrypted.failed == 2, "two handshakes that failed")


async def test_an_old_version_of_tls_is_refused(gateway, encrypted):
    old = ENCRYPTION[-1].trust
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with gateway.peer("/ws", ssl=old):
            pass


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 5000])
async def test_who_does_not_finish_the_handshake_is_closed_in_time(gateway, encrypted, said):
    encrypted.handshake_s = 0.2
    reader, writer = await open_plain(gateway.port)
    writer.write(said)
    assert await ends(reader)
    writer.close()
    await eventually(lambda: encrypted.failed == 1, "a failed handshake")
    assert encrypted.gauges()["tls_handshakes_under_way"] == 0
    encrypted.handshake_s = 10.0
    await gateway.can_chat()


async def test_silent_handshakes_keep_nobody_out(gateway, encrypted):
    encrypted.handshake_s, encrypted.limit = 60.0, 3
    silent = [await open_plain(gateway.port) for _ in range(8)]
    await gateway.can_chat()
    assert encrypted.gauges()["tls_handshakes_under_way"] <= encrypted.limit
    assert await ends(silent[0][0])
    assert encrypted.dropped >= 8 - encrypted.limit
    for _, writer in silent:
        writer.close()
    await encrypted.close()


async def test_a_renewed_certificate_is_used_from_the_next_handshake_on_and_a_broken_one_never(
    gateway, encrypted, authority
):
    certificate = encrypted.certificate

    async def serial_number() -> int:
        async with gateway.peer("/ws") as peer:
            return int(peer.connection.transport.get_extra_info("peercert")["serialNumber"], 16)

    async with gateway.session() as before:
        first = await serial_number()
        certificate.chain.write_text("half a certif")
        certificate.renew()
        certificate.renew()
        assert (certificate.renewals, certificate.renewals_failed) == (0, 1)
        assert await serial_number() == first
        renewed = authority.issue("127.0.0.1", lifetime=60 * DAY)
        certificate.chain.write_bytes(renewed.certificate.read_bytes())
        certificate.renew()  # its key has not come yet
        assert await serial_number() == first
        certificate.key.write_bytes(renewed.key.read_bytes())
        certificate.renew()
        assert certificate.renewals == 1
        assert await serial_number() != first
        await before.send(send("a", "still here"))
        await before.expect("ack")


async def test_what_waits_for_a_peer_that_does_not_read_is_counted_below_the_encryption_too(encrypted):
    """A slow reader could else hold twice its limit, and a memory budget would not see the half of it."""
    async with open_gateway(outbound_limit_bytes=64 * 2**20) as gateway:
        raw = await gateway.raw("/ws", receive_buffer=4_096)
        (connection,) = gateway.server._open.connections
        server_side = connection.transport.get_extra_info("socket")
        server_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        connection.write_frames([b"x" * 4_000_000])
        assert connection.transport.get_write_buffer_size() == 0
        assert connection.unsent_bytes() > 2_000_000
        raw.reset()


async def test_a_gateway_that_does_not_read_leaves_what_comes_to_the_kernel(encrypted):
    """The event loop would take in another 256 KiB for the decryption."""
    async with open_gateway() as gateway:
        raw = await gateway.raw("/ws")
        (connection,) = gateway.server._open.connections
        connection.listen(False)
        raw.write(b"\x89\x80" + bytes(4))
        raw.write(bytes(2**17))
        await asyncio.sleep(0.05)
        assert connection.transport.get_read_buffer_size() == 0
        connection.listen(True)
        raw.reset()
