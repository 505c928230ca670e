"""Every question over real HTTP: exact fields, defaults, limits, errors, cursors and cache headers."""

import re

import pytest
import structlog

from chatflow.domain.admission.origins import AllowedOrigins
from chatflow.domain.admission.rules import Admission
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.ports.errors import CacheUnavailable, CircuitOpen, QueryTimeout, StoreOverloaded, StoreUnavailable
from tests.api_harness import open_api
from tests.reading_fakes import START_US

FRAME = {"query", "queryTimeMs", "cached"}
ROW = {"messageId", "seq", "userId", "username", "message", "messageType", "timestamp", "serverTimestamp"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HUGE = str(10**30)

PATHS = {
    "/api/messages/room?roomId=1": ("messagesForRoom", {"roomId", "limit", "resultCount", "messages"}),
    "/api/messages/user": ("userHistory", {"userId", "limit", "resultCount", "messages"}),
    "/api/users/active": ("activeUsers", {"startTime", "endTime", "activeUserCount"}),
    "/api/users/rooms": ("userRooms", {"userId", "limit", "resultCount", "rooms"}),
    "/api/analytics/throughput": ("messagesPerMinute", {"limit", "data"}),
    "/api/analytics/top-users": ("topActiveUsers", {"topN", "users"}),
    "/api/analytics/top-rooms": ("topActiveRooms", {"topN", "rooms"}),
    "/api/analytics/patterns": ("userParticipationPatterns", {"data"}),
}
every_path = pytest.mark.parametrize("path", [*PATHS, "/api/all"])


def asking(path: str) -> str:
    """The path up to its next parameter."""
    return f"{path}{'&' if '?' in path else '?'}"


@pytest.fixture(params=[False, True], ids=["direct", "fallback"])
async def api(request):
    async with open_api(fallback=request.param) as opened:
        yield opened


@pytest.mark.parametrize(("path", "expected"), PATHS.items())
async def test_each_answer_has_exactly_its_fields(api, path, expected):
    query, fields = expected
    for _ in range(3):
        api.store.add("1")
    body = await api.body(path)
    assert set(body) == FRAME | fields
    assert body["query"] == query
    assert body["cached"] is False
    assert isinstance(body["queryTimeMs"], int)


@pytest.mark.parametrize("path", ["/api/messages/room?roomId=1", "/api/messages/user"])
async def test_the_time_that_a_message_shows_selects_it(api, path):
    for at_us in (START_US - 1, START_US, START_US + 999, START_US + 1000):
        api.store.add("1", at_us=at_us)
    shown = (await api.body(path))["messages"][1]["serverTimestamp"]
    page = await api.body(f"{asking(path)}start={shown}&end={shown}")
    assert [row["seq"] for row in page["messages"]] == [3, 2]
    exact = format_timestamp(START_US).replace("Z", "001Z")
    page = await api.body(f"{asking(path)}start={exact}&end={exact}")
    assert page["messages"] == []


async def test_a_room_page_is_newest_first_with_every_field_of_a_message(api):
    api.store.add("1", text='say "hi" \u2603\n')
    api.store.add("1", user_id=2**53 - 1)
    body = await api.body("/api/messages/room?roomId=1")
    assert [row["seq"] for row in body["messages"]] == [2, 1]
    assert (body["roomId"], body["limit"], body["resultCount"]) == ("1", 100, 2)
    assert body["messages"][1] == {
        "messageId": "01900000-0000-7000-8000-000000000000",
        "seq": 1,
        "userId": 1,
        "username": "user1",
        "message": 'say "hi" \u2603\n',
        "messageType": "TEXT",
        "timestamp": format_timestamp(START_US - 5000),
        "serverTimestamp": format_timestamp(START_US),
    }
    assert body["messages"][0]["userId"] == 2**53 - 1


async def test_a_user_page_names_the_room_of_each_message(api):
    api.store.add("lobby", user_id=7)
    api.store.add("5", user_id=7)
    api.store.add("5", user_id=8)
    body = await api.body("/api/messages/user?userId=7")
    assert [(row["roomId"], row["seq"]) for row in body["messages"]] == [("5", 1), ("lobby", 1)]
    assert all(set(row) == ROW | {"roomId"} for row in body["messages"])


async def test_the_counts_say_what_is_stored(api):
    for n in range(3):
        api.store.add("lobby", user_id=7 + n % 2, at_us=START_US + n * 60_000_000)
    rooms = await api.body("/api/users/rooms?userId=7")
    assert rooms["rooms"] == [
        {"roomId": "lobby", "lastActivity": format_timestamp(START_US + 120_000_000), "messageCount": 2}
    ]
    assert rooms["resultCount"] == 1
    assert (await api.body("/api/analytics/throughput"))["limit"] == 60
    throughput = await api.body("/api/analytics/throughput?limit=2")
    minutes = throughput["data"]
    assert throughput["limit"] == 2
    assert [minute["messageCount"] for minute in minutes] == [1, 1]
    assert all(TIME.fullmatch(minute["minute"]) and ":00.000Z" in minute["minute"] for minute in minutes)
    users = await api.body("/api/analytics/top-users?n=1")
    assert (users["topN"], users["users"]) == (1, [{"userId": 7, "username": "user7", "messageCount": 2}])
    rooms = await api.body("/api/analytics/top-rooms")
    assert (rooms["topN"], rooms["rooms"]) == (10, [{"roomId": "lobby", "messageCount": 3, "uniqueUsers": 2}])
    hours = (await api.body("/api/analytics/patterns"))["data"]
    assert {frozenset(hour) for hour in hours} == {frozenset({"hourOfDay", "messageCount", "uniqueUsers"})}
    assert sum(hour["messageCount"] for hour in hours) == 3
    active = await api.body("/api/users/active")
    assert (active["startTime"], active["endTime"], active["activeUserCount"]) == (None, None, 2)


async def test_a_window_selects_on_the_acceptance_time_both_ends_included(api):
    for n in range(5):
        api.store.add("1", user_id=n + 1, at_us=START_US + n * 1_000_000)
    start, end = format_timestamp(START_US + 1_000_000), format_timestamp(START_US + 3_000_000)
    for path in ("/api/messages/room?roomId=1&", "/api/messages/user?userId=3&", "/api/users/active?"):
        body = await api.body(f"{path}start={start}&end={end}")
        assert body.get("resultCount", body.get("activeUserCount")) == (1 if "userId" in path else 3)
    active = await api.body(f"/api/users/active?start={start}")
    assert (active["startTime"], active["endTime"], active["activeUserCount"]) == (start, None, 4)


@pytest.mark.parametrize(
    "start",
    [
        "2026-11-24T01:31:00Z",
        "2026-11-24t01:31:00z",
        "2026-11-24T01:31:00",
        "2026-11-24T01:31",
        "2026-11-24 01:31:00",
        "2026-11-24+01:31:00",
        "2026-11-24T01:31:00.000000000Z",
        "2026-11-24T03:31:00%2B02:00",
        "2026-11-24T03:31:00+02:00",
        "2026-11-24T03:31:00%2B0200",
        "2026-11-23T23:31:00-02:00",
    ],
)
async def test_times_are_taken_in_every_usual_form(api, start):
    assert (await api.body(f"/api/users/active?start={start}"))["startTime"] == "2026-11-24T01:31:00.000Z"


async def test_a_day_alone_is_its_first_moment(api):
    assert (await api.body("/api/users/active?start=2026-11-24"))["startTime"] == "2026-11-24T00:00:00.000Z"


async def test_room_5_is_5_in_every_spelling(api):
    api.store.add("5")
    assert (await api.body("/api/messages/room?roomId=room5"))["roomId"] == "5"
    status, body, headers = await api.get("/api/messages/room?roomId=5")
    assert (status, body["roomId"], body["resultCount"], headers["X-Cache"]) == (200, "5", 1, "l2")
    assert (await api.body("/api/messages/room?roomId=Lobby.a_b-c"))["roomId"] == "Lobby.a_b-c"


INTEGERS = [
    ("/api/messages/room?roomId=1", "limit"),
    ("/api/messages/user", "limit"),
    ("/api/messages/user", "userId"),
    ("/api/users/rooms", "userId"),
    ("/api/users/rooms", "limit"),
    ("/api/analytics/throughput", "limit"),
    ("/api/analytics/top-users", "n"),
    ("/api/analytics/top-rooms", "n"),
]
WRONG_INTEGERS = ["", "x", "-1", "0", HUGE, "1.5", "1e2", "0x10", "%2B5", " 5", "٣", "1_0", "5;drop", "null", "%00"]


@pytest.mark.parametrize(("path", "name"), INTEGERS)
@pytest.mark.parametrize("value", WRONG_INTEGERS)
async def test_an_integer_that_is_none_is_a_400_that_names_it(api, path, name, value):
    status, body, _ = await api.get(f"{asking(path)}{name}={value}")
    assert status == 400
    assert set(body) == {"error", "reason"}
    assert body["error"] == "invalid_parameter"
    assert body["reason"].startswith(f"{name} must ")


@pytest.mark.parametrize(("path", "name"), INTEGERS)
async def test_integers_have_their_limits_and_may_stand_once(api, path, name):
    top = 2**53 - 1 if name == "userId" else 1000
    assert (await api.get(f"{asking(path)}{name}={top}"))[0] == 200
    assert (await api.get(f"{asking(path)}{name}=1"))[0] == 200
    for wrong in (f"{name}={top + 1}", f"{name}=1&{name}=1"):
        status, body, _ = await api.get(f"{asking(path)}{wrong}")
        assert (status, body["error"]) == (400, "invalid_parameter")
        assert name in body["reason"]


@pytest.mark.parametrize("value", ["-1", "x", HUGE, "", str(2**53)])
async def test_a_wrong_min_seq_is_a_400_that_names_it(api, value):
    status, body, _ = await api.get(f"/api/messages/room?roomId=1&minSeq={value}")
    assert (status, body["reason"].split()[0]) == (400, "minSeq")


@pytest.mark.parametrize("room", ["", "a b", "x" * 65, "a/b", "ä", "%00", "a%0Ab", "5&roomId=5"])
async def test_a_wrong_room_is_a_400_that_names_it(api, room):
    status, body, _ = await api.get(f"/api/messages/room?roomId={room}")
    assert (status, body["error"], body["reason"].split()[0]) == (400, "invalid_parameter", "roomId")


WRONG_TIMES = [
    "", "yesterday", "2026-13-01", "2026-02-30", "2026-11-24T25:00:00Z", "2026-11-24T23:59:60Z", "1795000000",
    "0000-01-01", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "2026-11-24T01:31:00+99:00",
    "2026-11-24T01", HUGE, "%00", "2026-11-24'--",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/api/messages/room?roomId=1", "/api/messages/user", "/api/users/active"])
@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("value", WRONG_TIMES)
async def test_a_wrong_time_is_a_400_that_names_it(api, path, name, value):
    status, body, _ = await api.get(f"{asking(path)}{name}={value}")
    assert (status, body["error"], body["reason"].split()[0]) == (400, "invalid_parameter", name)


@pytest.mark.parametrize("path", ["/api/messages/room?roomId=1", "/api/messages/user", "/api/users/active"])
async def test_an_end_before_the_start_is_a_400_that_names_it(api, path):
    status, body, _ = await api.get(f"{asking(path)}start=2026-11-24&end=2026-11-23")
    assert (status, body["reason"]) == (400, "end must not be before start")
    assert (await api.get(f"{asking(path)}start=2026-11-24&end=2026-11-24"))[0] == 200


@pytest.mark.parametrize("path", ["/api/messages/room?roomId=1", "/api/messages/user"])
@pytest.mark.parametrize("cursor", ["", "rubbish", "%00", "AXIAAA", "x" * 5000, "ä", "AA==", "a&cursor=a"])
async def test_a_wrong_cursor_is_a_400_that_names_it(api, path, cursor):
    status, body, _ = await api.get(f"{asking(path)}cursor={cursor}")
    assert (status, body["error"], body["reason"].split()[0]) == (400, "invalid_parameter", "cursor")


async def test_a_cursor_of_another_room_user_or_kind_is_a_400(api):
    for _ in range(3):
        api.store.add("1")
    room = (await api.body("/api/messages/room?roomId=1&limit=1"))["nextCursor"]
    user = (await api.body("/api/messages/user?limit=1"))["nextCursor"]
    for wrong in (f"room?roomId=2&cursor={room}", f"room?roomId=1&cursor={user}", f"user?userId=2&cursor={user}"):
        status, body, _ = await api.get(f"/api/messages/{wrong}")
        assert (status, body["reason"]) == (400, "cursor belongs to another listing")


KNOWN = ("roomId", "userId", "start", "end", "limit", "n", "cursor", "minSeq")


@pytest.mark.parametrize("path", [*PATHS, "/api/all", "/api/health", "/api/metrics"])
async def test_an_unknown_or_repeated_parameter_is_a_400_that_names_it(api, path):
    for name in ("roomid", "room", "Limit", "_", "%00", "%1b[31m", "x" * 500):
        status, body, _ = await api.get(f"{asking(path)}{name}=1")
        assert (status, body["error"]) == (400, "invalid_parameter")
        assert all(known in body["reason"] for known in KNOWN), body
        assert name.startswith("%") or name[:64] in body["reason"]
        assert len(body["reason"]) < 250
    for name in KNOWN:
        status, body, _ = await api.get(f"{asking(path)}{name}=1&{name}=1")
        assert (status, body["reason"]) == (400, f"{name} must not be given more than once")


async def test_a_known_parameter_that_a_path_does_not_use_is_let_pass(api):
    unused = {"minSeq": "0", "n": "1", "roomId": "1", "userId": "7"}
    for path in (*PATHS, "/api/all", "/api/health", "/api/metrics"):
        more = "&".join(f"{name}={value}" for name, value in unused.items() if f"{name}=" not in path)
        assert (await api.get(f"{asking(path)}{more}"))[0] == 200, path


async def test_a_room_must_be_named(api):
    api.store.add("1")
    status, body, _ = await api.get("/api/messages/room")
    assert (status, body["error"], body["reason"]) == (400, "invalid_parameter", "roomId is required")


async def test_the_rooms_of_a_user_come_in_pages(api):
    for number in range(250):
        api.store.add(f"r{number}", user_id=7, at_us=START_US + number // 2)  # two at each moment
    first = await api.body("/api/users/rooms?userId=7")
    assert (first["limit"], first["resultCount"], len(first["rooms"])) == (100, 100, 100)
    everything = await api.body("/api/all?userId=7")
    assert everything["coreQuery4_userRooms"]["resultCount"] == 0
    seen, cursor = [], ""
    while cursor is not None:
        body = await api.body(f"/api/users/rooms?userId=7&limit=7{cursor}")
        seen += [room["roomId"] for room in body["rooms"]]
        cursor = f"&cursor={body['nextCursor']}" if "nextCursor" in body else None
    assert seen == sorted((f"r{n}" for n in range(250)), key=lambda room: (-(int(room[1:]) // 2), room))
    wrong = await api.get(f"/api/users/rooms?userId=8&cursor={first['nextCursor']}")
    assert (wrong[0], wrong[1]["reason"]) == (400, "cursor belongs to another listing")


async def test_following_next_cursor_visits_every_message_once_despite_inserts_and_caches(api):
    for _ in range(23):
        api.store.add("5", user_id=7, at_us=START_US)  # all at the same moment
    for path in ("/api/messages/room?roomId=5&limit=5", "/api/messages/user?userId=7&limit=5"):
        expected = sum(row.message.room_id == "5" for row in api.store.rows)
        seen, cursor = [], ""
        while cursor is not None:
            body = await api.body(path + cursor)
            assert body["resultCount"] == len(body["messages"]) <= 5
            seen += [row["seq"] for row in body["messages"]]
            cursor = f"&cursor={body['nextCursor']}" if "nextCursor" in body else None
            await api.commit("5", user_id=7, at_us=START_US + 1_000_000_000)
        assert seen == list(range(expected, 0, -1))


@every_path
async def test_the_second_answer_says_that_it_is_cached(api, path):
    first, second = await api.get(path), await api.get(path)
    assert (first[2]["X-Cache"], first[1]["cached"]) == ("miss", False)
    assert (second[2]["X-Cache"], second[1]["cached"]) == ("l2", True)
    varying = FRAME | {"systemMetrics"}
    assert {k: v for k, v in first[1].items() if k not in varying} == {
        k: v for k, v in second[1].items() if k not in varying
    }


async def test_all_is_not_called_cached_when_one_part_was_not(api):
    await api.get("/api/all")
    await api.commit("1")
    _, body, headers = await api.get("/api/all")
    assert (body["cached"], headers["X-Cache"]) == (False, "miss")


async def test_min_seq_of_the_future_is_a_409_after_half_a_second(api):
    api.store.add("1")
    started = api.clock()
    status, body, headers = await api.get("/api/messages/room?roomId=1&minSeq=2")
    assert (status, body["error"], set(body)) == (409, "behind", {"error", "reason"})
    assert "Retry-After" in headers
    assert 0.5 <= api.clock() - started < 0.6


async def test_min_seq_is_never_answered_from_before_it(api):
    api.store.add("1")
    await api.body("/api/messages/room?roomId=1")
    api.store.add("1")  # no invalidation yet
    body = await api.body("/api/messages/room?roomId=1&minSeq=2")
    assert body["messages"][0]["seq"] == 2
    assert (await api.body("/api/messages/room?roomId=1&minSeq=0"))["resultCount"] >= 1


FAILURES = [
    (StoreOverloaded("secret"), 503, "backpressure", True),
    (StoreUnavailable("secret"), 503, "unavailable", True),
    (CircuitOpen(retry_in_s=3), 503, "unavailable", True),
    (QueryTimeout("secret"), 504, "query_timeout", True),
    (RuntimeError("secret"), 500, "internal", False),
    (CacheUnavailable("secret"), 500, "internal", False),
]


@every_path
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure[0]).__name__)
async def test_failures_of_the_store_are_told_by_code_and_nothing_else(api, path, failure):
    api.store.error, status, code, retry = failure
    with structlog.testing.capture_logs() as logs:
        got, body, headers = await api.get(path)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["http.failed"] * (status == 500)
    assert (got, body["error"], set(body)) == (status, code, {"error", "reason"})
    assert headers["Content-Type"].startswith("application/json")
    assert ("Retry-After" in headers) == retry
    assert not headers.get("Retry-After", "0").strip("0123456789")
    assert "secret" not in str(body)
    assert "Traceback" not in str(body)


@pytest.mark.parametrize("path", ["/api", "/api/nothing", "/api/messages/room/", "/nothing.js", "/docs/x"])
async def test_an_unknown_path_is_a_404_in_json(api, path):
    status, body, headers = await api.get(path)
    assert (status, body["error"], set(body)) == (404, "not_found", {"error", "reason"})
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@every_path
async def test_another_method_is_a_405_in_json(api, path, method):
    async with api.http.request(method, path) as response:
        body = await response.json()
        assert (response.status, body["error"]) == (405, "method_not_allowed")
        assert "GET" in response.headers["Allow"]


@every_path
async def test_head_answers_like_get_without_a_body(api, path):
    async with api.http.head(path) as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 10
        assert await response.read() == b""


@every_path
async def test_json_is_compact_and_says_so(api, path):
    api.store.add("1")
    async with api.http.get(path) as response:
        text = await response.text()
    assert response.headers["Content-Type"].startswith("application/json")
    assert re.search(r'[{,]"\w+": ', text) is None
    assert text.startswith('{"query":"')


async def test_no_origin_may_read_unless_configured(api):
    status, body, headers = await api.get("/api/all", Origin="https://elsewhere.example")
    assert (status, body["error"]) == (403, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("path", ["/api/all", "/api/messages/room?roomId=1&limit=0", "/nothing", "/api/health"])
@pytest.mark.parametrize("origin", ["*", "https://chat.example"])
async def test_a_configured_origin_may_read_answers_and_errors(path, origin):
    async with open_api(admission=Admission(origins=AllowedOrigins.parse(origin))) as api:
        _, _, headers = await api.get(path, Origin="https://chat.example")
    assert headers["Access-Control-Allow-Origin"] == origin
    assert ("Vary" in headers) == (origin != "*")


async def test_prometheus_sees_queries_by_tier(api):
    await api.get("/api/messages/room?roomId=1")
    await api.get("/api/messages/room?roomId=1")
    async with api.http.get("/metrics") as response:
        text = await response.text()
    assert 'chatflow_query_answers_total{query="room",source="l2"} 1.0' in text
    assert 'chatflow_query_seconds_count{query="room"} 2.0' in text
