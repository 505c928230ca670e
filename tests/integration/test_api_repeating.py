"""The same bytes again are answered without aiohttp, and as aiohttp would: in order, framed, and up to date."""

import asyncio
import gc
import random
import weakref

import attrs
import msgspec
import pytest

from chatflow.adapters.aiohttp.compat import LONGEST_HEAD, DirectResponse
from chatflow.adapters.aiohttp.repeats import Repeats
from chatflow.domain.admission.origins import AllowedOrigins
from chatflow.domain.admission.rules import Admission
from tests.api_harness import open_api

ROOM = "/api/messages/room?roomId=5&limit=1000"
TOP = "/api/analytics/top-rooms"
PATIENCE_S = 20


@pytest.fixture
async def api():
    async with open_api(listens=True) as opened:
        await opened.commit("5")
        yield opened


def head(path, *lines, method="GET", version="1.1"):
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return msgspec.json.decode(self.body)


@attrs.define
class Client:
    """A connection whose every byte is a test's own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, *, has_body=True):
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:-2])
            length = int(headers.get("Content-Length", "0")) if has_body else 0
            return Answer(int(lines[0].split(" ")[1]), headers, await self.reader.readexactly(length))

    async def ask(self, request, **how):
        await self.send(request)
        return await self.receive(**how)

    async def is_closed(self):
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read(1) == b""


@pytest.fixture
async def client(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=2**20)
    yield Client(reader, writer)
    writer.close()


def parsed(api):
    """Requests that took the usual way."""
    return api.server._runner.server.requests_count


async def settled(client, request):
    """Ask until the process has both the answer and the way to give it."""
    for _ in range(3):
        answer = await client.ask(request)
    return answer


async def test_what_came_before_is_answered_alike_and_not_parsed(api, client):
    first, *_, again = [await client.ask(head(ROOM)) for _ in range(4)]
    before = parsed(api)
    repeated = [await client.ask(head(ROOM)) for _ in range(5)]
    assert parsed(api) == before
    for answer in repeated:
        assert answer.headers["X-Cache"] == "l1"
        assert answer.headers | {"Date": ""} == again.headers | {"Date": ""}
        assert answer.json == again.json == first.json | {"cached": True}
    assert first.headers.keys() == again.headers.keys()


async def test_a_connection_that_is_new_needs_no_introduction(api, client):
    await settled(client, head(TOP))
    before = parsed(api)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    other = Client(reader, writer)
    for _ in range(3):
        assert (await other.ask(head(TOP))).headers["X-Cache"] == "l1"
    assert parsed(api) <= before + 1  # its task may not have been waiting yet
    writer.close()


async def test_a_commit_is_seen_by_the_next_request(api, client):
    await settled(client, head(ROOM))
    before = parsed(api)
    for count in range(2, 20):
        await api.commit("5")
        answer = await client.ask(head(ROOM))
        assert answer.json["resultCount"] == count
        assert answer.json["messages"][0]["seq"] == count
    assert parsed(api) == before


async def test_a_conditional_request_is_repeated_too(api, client):
    tag = (await settled(client, head(ROOM))).headers["ETag"]
    request = head(ROOM, f"If-None-Match: {tag}")
    assert [(await client.ask(request)).status for _ in range(3)] == [304] * 3
    before = parsed(api)
    assert (await client.ask(request)).status == 304
    await api.commit("5")
    answer = await client.ask(request)
    assert (answer.status, answer.json["resultCount"], parsed(api)) == (200, 2, before)


async def test_what_the_process_does_not_have_any_more_takes_the_usual_way(api, client):
    await settled(client, head(TOP))
    before = parsed(api)
    api.clock.advance(6)
    assert (await client.ask(head(TOP))).headers["X-Cache"] == "l2"
    assert (await client.ask(head(TOP))).headers["X-Cache"] == "l1"
    assert parsed(api) == before + 1


async def test_min_seq_is_kept_to(api, client):
    request = head(f"{ROOM}&minSeq=1")
    await settled(client, request)
    await api.cache.invalidate(["room:5"])
    answer = await client.ask(request)
    assert (answer.status, answer.headers["X-Cache"]) == (200, "miss")
    assert (await client.ask(head(f"{ROOM}&minSeq=9"))).status == 409


async def test_only_get_is_repeated(api, client):
    await settled(client, head(TOP))
    before = parsed(api)
    for _ in range(3):
        answer = await client.ask(head(TOP, method="HEAD"), has_body=False)
        assert answer.status == 200
        assert (await client.ask(head(TOP, method="DELETE"))).status == 405
    assert parsed(api) == before + 6


async def test_an_error_is_worked_out_each_time(api, client):
    before = parsed(api)
    for _ in range(4):
        assert (await client.ask(head(f"{ROOM}&minSeq=x"))).status == 400
    assert parsed(api) == before + 4


async def test_a_client_that_wants_to_close_is_closed(api, client):
    await settled(client, head(TOP))
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        other = Client(reader, writer)
        answer = await other.ask(head(TOP, "Connection: close"))
        assert answer.headers["Connection"] == "close"
        assert await other.is_closed()
        writer.close()


async def test_what_the_origin_may_read_is_said_each_time():
    guests = Admission(origins=AllowedOrigins.parse("https://chat.example"))
    async with open_api(listens=True, admission=guests) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        client = Client(reader, writer)
        for _ in range(5):
            answer = await client.ask(head(TOP, "Origin: https://chat.example"))
            assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example"
            assert answer.headers["Vary"] == "Origin"
        assert parsed(api) < 5
        writer.close()


async def test_health_is_repeated_while_it_is_fresh_and_good():
    async with open_api(fleet_fresh_s=60) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        client = Client(reader, writer)
        for path in ("/api/health", "/api/metrics"):
            await settled(client, head(path))
            before = parsed(api)
            assert (await client.ask(head(path))).json
            assert parsed(api) == before
        writer.close()


async def test_health_that_is_bad_is_looked_at_each_time():
    async with open_api(fleet_fresh_s=60) as api:
        api.report = attrs.evolve(api.report, ok=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        client = Client(reader, writer)
        assert [(await client.ask(head("/api/health"))).status for _ in range(4)] == [503] * 4
        assert parsed(api) == 4
        writer.close()


async def test_a_body_is_never_taken_for_a_request(api, client):
    await settled(client, head(TOP))
    request = head(TOP, "Content-Length: 4") + b"GET "
    for _ in range(4):
        assert (await client.ask(request)).status == 200
    for _ in range(4):
        await client.send(head(TOP, "Content-Length: 4"))
        await asyncio.sleep(0.01)
        await client.send(b"GET ")
        assert (await client.receive()).status == 200
    chunked = head(TOP, "Transfer-Encoding: chunked")
    for _ in range(4):
        await client.send(chunked)
        await asyncio.sleep(0.01)
        await client.send(b"0\r\n\r\n")
        assert (await client.receive()).status == 200
    assert (await client.ask(head(TOP))).headers["X-Cache"] == "l1"


async def test_a_head_that_announces_a_body_is_not_remembered(api, client):
    request = head(TOP, "Content-Length: 4")
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        other = Client(reader, writer)
        await settled(other, head(TOP))
        await other.send(request)
        await asyncio.sleep(0.01)
        await other.send(b"GET ")
        assert (await other.receive()).status == 200
        assert (await other.ask(head(TOP))).status == 200
        writer.close()


async def test_a_header_that_holds_a_known_head_is_a_header(api, client):
    await settled(client, head(TOP))
    await client.send(b"GET /nothing HTTP/1.1\r\nX-Inside: ")
    await asyncio.sleep(0.01)
    await client.send(head(TOP))
    assert (await client.receive()).status == 404
    assert (await client.ask(head(ROOM))).json["query"] == "messagesForRoom"


async def test_two_requests_in_one_piece_are_two_each_time(api, client):
    await settled(client, head(TOP))
    for _ in range(4):
        await client.send(head(TOP) + head(ROOM))
        answers = [await client.receive() for _ in range(2)]
        assert [answer.json["query"] for answer in answers] == ["topActiveRooms", "messagesForRoom"]


async def test_nothing_overtakes_an_answer_that_is_still_being_worked_out(api, client):
    await settled(client, head(TOP))
    api.store.gate.clear()
    await client.send(head("/api/messages/user?userId=1"))
    await asyncio.sleep(0.02)
    for _ in range(3):
        await client.send(head(TOP))
        await asyncio.sleep(0.01)
    api.store.gate.set()
    answers = [await client.receive() for _ in range(4)]
    assert [answer.json["query"] for answer in answers] == ["userHistory", *["topActiveRooms"] * 3]


async def test_a_head_in_pieces_is_put_together(api, client):
    await settled(client, head(TOP))
    whole = head(TOP)
    for at in (1, 10, len(whole) - 3, len(whole) - 1):
        await client.send(whole[:at])
        await asyncio.sleep(0.01)
        await client.send(whole[at:])
        assert (await client.receive()).json["query"] == "topActiveRooms"
    await client.send(whole + whole[:20])
    await asyncio.sleep(0.01)
    await client.send(whole[20:])
    assert [(await client.receive()).status for _ in range(2)] == [200, 200]


async def test_any_cut_of_any_requests_is_answered_once_each_in_order(api, client):
    dice = random.Random(11)
    kinds = [
        (head(TOP), (200, "topActiveRooms")),
        (head(ROOM), (200, "messagesForRoom")),
        (head(ROOM, "Content-Length: 3") + b"abc", (200, "messagesForRoom")),
        (head("/api/users/active"), (200, "activeUsers")),
        (head("/api/users/active?start=x"), (400, None)),
        (head("/nothing"), (404, None)),
        (head("/api/messages/user?userId=7", "Content-Length: 0"), (200, "userHistory")),
    ]
    for _ in range(60):
        chosen = dice.choices(kinds, k=dice.randint(1, 12))
        stream = b"".join(request for request, _ in chosen)
        cuts = sorted(dice.choices(range(1, len(stream)), k=dice.randint(0, 3)))
        if dice.random() < 0.6:  # at the requests' own borders, as clients do
            ends = [len(b"".join(request for request, _ in chosen[:n])) for n in range(1, len(chosen))]
            cuts = sorted({*ends, *cuts[:1]})
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            await client.send(stream[start:end])
            await asyncio.sleep(dice.choice([0, 0.001]))
        answers = [await client.receive() for _ in chosen]
        assert [(answer.status, answer.json.get("query")) for answer in answers] == [expected for _, expected in chosen]


async def test_a_client_that_does_not_read_is_not_written_to_without_end(api, client):
    for _ in range(400):
        await api.commit("5", text="x" * 400)
    size = len((await settled(client, head(ROOM))).body)
    client.writer.transport.pause_reading()
    count = 400
    sending = asyncio.create_task(_send_each(client, head(ROOM), count))
    await asyncio.sleep(0.5)
    (connection,) = [each for each in api.server._runner.server.connections if each.transport.get_write_buffer_size()]
    assert connection.transport.get_write_buffer_size() < 4 * size
    client.writer.transport.resume_reading()
    assert {(await client.receive()).status for _ in range(count)} == {200}
    await sending


async def _send_each(client, request, count):
    for _ in range(count):
        await client.send(request)
        await asyncio.sleep(0)


async def test_a_head_that_is_long_or_that_asks_for_more_is_not_remembered(api, client):
    for request in (head(TOP, f"X-Long: {'x' * LONGEST_HEAD}"), head(TOP, "Connection: upgrade", "Upgrade: h2c")):
        before = parsed(api)
        for _ in range(3):
            assert (await client.ask(request)).status == 200
        assert parsed(api) == before + 3


async def test_what_is_remembered_of_a_request_is_not_its_answer(api, client, monkeypatch):
    answers = []
    initialise = DirectResponse.__init__

    def watched(response, reply, again):
        answers.append(weakref.ref(reply))
        initialise(response, reply, again)

    monkeypatch.setattr(DirectResponse, "__init__", watched)
    for number in range(1, 51):
        assert (await client.ask(head(f"{ROOM}&n={number}"))).status == 200
    before = parsed(api)
    assert (await client.ask(head(f"{ROOM}&n=50"))).headers["X-Cache"] == "l1"
    assert parsed(api) == before
    assert len(answers) == 50
    gc.collect()
    assert len([answer for answer in answers if answer() is not None]) < 5  # the connection may hold the last one


async def test_a_server_that_closes_answers_nothing_more():
    async with open_api(listens=True) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        client = Client(reader, writer)
        await settled(client, head(TOP))
        await api.server.close()
        assert await client.is_closed()
        writer.close()


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first():
    repeats = Repeats(limit=2)
    for name in (b"a", b"b", b"a", b"c"):
        repeats.remember(name, lambda name=name: name)
    assert [repeats.answer(name) for name in (b"a", b"b", b"c")] == [b"a", None, b"c"]
    assert len(repeats) == 2


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\n\r\n",
        head(TOP, "X: " + "x" * 9_000),
        head("/\u00e9"),
        head(TOP, "Content-Length: -1"),
    ],
    ids=["no request", "no host", "long head", "no url", "no length"],
)
async def test_what_cannot_be_read_is_refused_in_json_and_not_logged(client, caplog, request_bytes):
    answer = await client.ask(request_bytes)
    assert (answer.status, answer.json["error"]) == (400, "bad_request")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert await client.is_closed()
    assert caplog.records == []
