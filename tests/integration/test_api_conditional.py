"""Conditional requests, and answers that are written to the socket as they are."""

import asyncio

import msgspec
import pytest

from chatflow.adapters.aiohttp.errors import JSON
from chatflow.domain.admission.origins import AllowedOrigins
from chatflow.domain.admission.rules import Admission
from tests.api_harness import open_api

ROOM = "/api/messages/room?roomId=5"


@pytest.fixture(params=[False, True], ids=["direct", "fallback"])
async def api(request):
    async with open_api(fallback=request.param) as opened:
        yield opened


async def status_of(api, path, **headers):
    async with api.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}) as r:
        return r.status, await r.read(), r.headers


async def test_an_answer_that_the_client_has_is_not_sent_again_until_it_changes(api):
    await api.commit("5")
    _, _, first = await status_of(api, ROOM)
    status, body, headers = await status_of(api, ROOM, If_None_Match=first["ETag"])
    assert (status, body) == (304, b"")
    assert headers["ETag"] == first["ETag"]
    assert headers["X-Cache"] == "l2"
    await api.commit("5")
    status, body, headers = await status_of(api, ROOM, If_None_Match=first["ETag"])
    assert status == 200
    assert msgspec.json.decode(body)["resultCount"] == 2
    assert headers["ETag"] != first["ETag"]


@pytest.mark.parametrize("form", ["*", '"zzz", {tag}', "{strong}", '{tag} , W/"other"'])
async def test_every_form_of_if_none_match_is_understood(api, form):
    await api.commit("5")
    _, _, headers = await status_of(api, ROOM)
    tag = headers["ETag"]
    given = form.format(tag=tag, strong=tag.removeprefix("W/"))
    assert (await status_of(api, ROOM, If_None_Match=given))[0] == 304


async def test_another_tag_is_no_match(api):
    await api.commit("5")
    assert (await status_of(api, ROOM, If_None_Match='W/"0000000000000000"'))[0] == 200


async def test_an_answer_may_be_kept_but_must_be_asked_for_again(api):
    _, _, headers = await status_of(api, ROOM)
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Content-Type"] == JSON
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Date" in headers


async def test_a_page_of_another_origin_may_read_the_tag(api):
    guests = Admission(origins=AllowedOrigins.parse("https://chat.example.org"))
    async with open_api(admission=guests) as other:
        _, _, headers = await status_of(other, ROOM, Origin="https://chat.example.org")
        assert headers["Access-Control-Allow-Origin"] == "https://chat.example.org"
        assert "ETag" in headers["Access-Control-Expose-Headers"]


async def raw(api, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


async def test_head_gets_the_headers_alone(api):
    answer = await raw(
        api, b"HEAD /api/messages/room?roomId=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"ETag" in head
    assert body == b""


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_connection_that_is_to_be_closed_is_closed_after_the_whole_answer(api, version):
    answer = await raw(
        api, b"GET /api/messages/room?roomId=1 HTTP/%b\r\nHost: localhost\r\nConnection: close\r\n\r\n" % version
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    assert lengths == [len(body)]
    assert msgspec.json.decode(body)["query"] == "messagesForRoom"


async def test_pipelined_requests_are_answered_in_order_on_one_connection(api):
    for _ in range(3):
        await api.commit("5")
    one = b"GET /api/messages/room?roomId=5&limit=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /api/users/rooms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(api, one % 1 + one % 2 + one % 3 + last)
    assert [answer.find(b'"resultCount":%d,' % n) for n in (1, 2, 3)] == sorted(
        answer.find(b'"resultCount":%d,' % n) for n in (1, 2, 3)
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_a_client_that_does_not_read_is_not_buffered_for_without_end(api):
    for _ in range(200):
        await api.commit("5", text="x" * 400)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    request = b"GET /api/messages/room?roomId=5&limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(400):
        writer.write(request)
    await asyncio.sleep(0.5)  # time to answer all 400, were nobody to wait for the reader
    answered = sum(api.queries.cache.metrics.answers.values())
    assert 0 < answered < 200
    writer.close()
    assert not reader.at_eof()
