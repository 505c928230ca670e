import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.admission.origins import AllowedHosts, AllowedOrigins, Authority, WebOrigin


def host(text: str) -> Authority:
    authority = Authority.parse(text)
    assert authority is not None
    return authority


def origin(text: str) -> WebOrigin:
    parsed = WebOrigin.parse(text)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8080",
        "[::1]:9091",
        "10.9.8.7",
        "[2001:db8::5]",
        "localhost",
        "LOCALHOST:1",
        "app.localhost",
        "localhost.",
    ],
)
def test_addresses_and_loopback_names_are_always_ours(text):
    assert host(text) in AllowedHosts()


@pytest.mark.parametrize("text", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"])
def test_any_other_name_has_to_be_allowed(text):
    assert host(text) not in AllowedHosts()
    assert host(text) in AllowedHosts.parse(f"chat.example.org,{text}")
    assert host(text) in AllowedHosts.parse("*")


def test_a_star_stands_for_all_below_a_name_and_not_for_the_name():
    hosts = AllowedHosts.parse("*.example.org")
    assert host("a.b.example.org:443") in hosts
    assert host("example.org") not in hosts
    assert host("badexample.org") not in hosts


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a/b",
        "evil.example@127.0.0.1",
        "[::1",
        "[1.2.3.4]:x",
        "a:",
        "a:99999",
        "a..b",
        "-a",
        "a;b",
        "[:::::]",
    ],
)
def test_what_is_no_host_is_none(text):
    assert Authority.parse(text) is None


@pytest.mark.parametrize(
    "text", ["null", "", "file://", "127.0.0.1", "ftp://a.example", "https://a.example/", "http://a b"]
)
def test_what_is_no_origin_of_the_web_is_none(text):
    assert WebOrigin.parse(text) is None


def test_an_origin_is_its_scheme_its_host_and_its_port():
    allowed = AllowedOrigins.parse("https://Chat.Example.org, http://dev.example:3000")
    assert origin("https://chat.example.org") in allowed
    assert origin("https://chat.example.org:443") in allowed
    assert origin("http://dev.example:3000") in allowed
    for other in ("http://chat.example.org", "https://chat.example.org:8443", "https://a.chat.example.org"):
        assert origin(other) not in allowed
    assert allowed.names == {"chat.example.org", "dev.example"}


def test_a_star_allows_every_origin_or_all_below_a_name():
    assert origin("http://evil.example") in AllowedOrigins.parse("*")
    below = AllowedOrigins.parse("https://*.example.org")
    assert origin("https://a.b.example.org") in below
    assert origin("https://example.org") not in below
    assert origin("http://a.example.org") not in below
    assert below.names == {"*.example.org"}


@given(st.text(max_size=60))
def test_no_text_is_read_in_two_ways(text):
    authority = Authority.parse(text)
    if authority is not None:
        again = authority.name if authority.port is None else f"{authority.name}:{authority.port}"
        assert Authority.parse(again) == authority
