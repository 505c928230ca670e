import pytest

from chatflow.adapters.memory.audit_trail import MemoryAuditTrail
from chatflow.domain.admission.addresses import Client
from chatflow.domain.admission.origins import AllowedHosts, AllowedOrigins
from chatflow.domain.admission.rules import NO_HOST, NO_ORIGIN, OTHER_HOST, OTHER_ORIGIN, Admission, Arrival, no_token

LOCAL = Client("127.0.0.1", is_loopback=True)
REMOTE = Client("203.0.113.9")
SECURE = Client("203.0.113.9", is_secure=True)


def arrival(host: str = "127.0.0.1:8080", origin: str | None = None, client: Client = LOCAL, **more) -> Arrival:
    return Arrival([host], [] if origin is None else [origin], client, **more)


ADMISSION = Admission(
    AllowedHosts.parse("chat.example.org"), AllowedOrigins.parse("https://friend.example"), ports={8080, 9091}
)


@pytest.mark.parametrize("hosts", [[], [""], ["a", "a"], ["a b"]])
def test_a_request_needs_one_host(hosts):
    assert ADMISSION.judge(Arrival(hosts, [], LOCAL)) is NO_HOST


def test_a_name_that_was_made_to_point_here_is_refused_whatever_the_origin():
    assert ADMISSION.judge(arrival("evil.example", "http://evil.example")) is OTHER_HOST
    assert ADMISSION.judge(arrival("evil.example")) is OTHER_HOST


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:9091"),
        ("127.0.0.1:8080", "http://localhost:9091"),
        ("localhost:8080", "http://[::1]:9091"),
        ("192.168.1.7:8080", "http://192.168.1.7:9091"),
        ("chat.example.org", "https://chat.example.org"),
        ("chat.example.org:8443", "https://chat.example.org:8443"),
        ("127.0.0.1:8080", "https://friend.example"),
    ],
)
def test_own_pages_and_allowed_ones_come_in(host, origin):
    assert ADMISSION.judge(arrival(host, origin, REMOTE)) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", "http://evil.example"),
        ("127.0.0.1:8080", "http://127.0.0.1:3000"),
        ("127.0.0.1:8080", "http://localhost"),
        ("127.0.0.1:8080", "null"),
        ("127.0.0.1:8080", ""),
        ("127.0.0.1:8080", "http://friend.example"),
        ("192.168.1.7:8080", "http://localhost:9091"),
        ("192.168.1.7:8080", "http://192.168.1.8:9091"),
        ("chat.example.org", "https://chat.example.org:444"),
        ("chat.example.org", "http://chat.example.org.evil.example"),
    ],
)
def test_pages_of_other_sites_do_not_even_from_this_machine(host, origin):
    assert ADMISSION.judge(arrival(host, origin, LOCAL)) is OTHER_ORIGIN


def test_two_origins_are_none():
    assert ADMISSION.judge(Arrival(["localhost"], ["http://localhost:9091"] * 2, LOCAL)) is OTHER_ORIGIN


def test_behind_tls_a_page_without_it_is_another_site():
    assert ADMISSION.judge(arrival("chat.example.org", "http://chat.example.org", SECURE)) is OTHER_ORIGIN
    assert ADMISSION.judge(arrival("chat.example.org", "https://chat.example.org", SECURE)) is None


def test_a_program_comes_in_from_this_machine_or_with_a_token_or_where_somebody_said_open():
    assert ADMISSION.judge(arrival(client=LOCAL)) is None
    rejection = ADMISSION.judge(arrival(client=REMOTE))
    assert rejection is NO_ORIGIN
    assert rejection.unless_token
    assert Admission(is_open=True).judge(arrival(client=REMOTE)) is None


def test_what_anybody_may_see_needs_no_origin():
    assert ADMISSION.judge(arrival(client=REMOTE), needs_origin=False) is None


def test_a_browser_that_sends_no_origin_says_where_the_page_is():
    assert ADMISSION.judge(arrival(client=REMOTE, fetch_site="same-origin")) is None
    assert ADMISSION.judge(arrival(fetch_site="cross-site")) is OTHER_ORIGIN
    assert ADMISSION.judge(arrival(fetch_site="same-site")) is OTHER_ORIGIN
    assert ADMISSION.judge(arrival(fetch_site="cross-site", is_navigation=True)) is None
    assert ADMISSION.judge(arrival(fetch_site="none")) is None


def test_a_star_allows_what_is_no_origin_too():
    assert Admission(origins=AllowedOrigins.parse("*")).judge(arrival(origin="null")) is None


async def test_who_may_not_come_in_is_recorded_without_the_query():
    trail = MemoryAuditTrail()
    admission = Admission(audit_trail=trail)
    headers = {"Host": ["evil.example:8080"], "Origin": ["http://evil.example"]}
    assert await admission.rejection("/ws", lambda name: headers.get(name, []), LOCAL, no_token)
    assert list(trail.entries) == [
        {
            "event": "access.denied",
            "reason": "host_not_allowed",
            "address": LOCAL.address,
            "path": "/ws",
            "origin": "http://evil.example",
        }
    ]
