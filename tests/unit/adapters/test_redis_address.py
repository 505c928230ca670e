import pytest

from chatflow.adapters.redis.address import Address, Kind, parse
from chatflow.ports.tls import Tls


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address(Kind.SINGLE, (("h", 6379),))),
        ("redis://h:1/2", Address(Kind.SINGLE, (("h", 1),), database=2)),
        ("redis://[::1]:7", Address(Kind.SINGLE, (("::1", 7),))),
        ("redis://:p%40s@h/", Address(Kind.SINGLE, (("h", 6379),), password="p@s")),
        ("redis://u:a:b@h", Address(Kind.SINGLE, (("h", 6379),), username="u", password="a:b")),
        ("rediss://h", Address(Kind.SINGLE, (("h", 6379),), tls=Tls())),
        (
            "rediss://h?ssl_ca=/c&ssl_cert=/d&ssl_key=/e&ssl_check_hostname=off",
            Address(Kind.SINGLE, (("h", 6379),), tls=Tls("/c", "/d", "/e", check_hostname=False)),
        ),
        (
            "redis+sentinel://u:p@a,b:1,[::1]:2/name/3?sentinel_password=s&sentinel_username=t",
            Address(
                Kind.SENTINEL,
                (("a", 26379), ("b", 1), ("::1", 2)),
                master="name",
                database=3,
                username="u",
                password="p",
                sentinel_username="t",
                sentinel_password="s",
            ),
        ),
        ("rediss+sentinel://a/name", Address(Kind.SENTINEL, (("a", 26379),), master="name", tls=Tls())),
        ("redis+cluster://a,b:1", Address(Kind.CLUSTER, (("a", 6379), ("b", 1)))),
        ("rediss+cluster://a/?ssl_ca=c", Address(Kind.CLUSTER, (("a", 6379),), tls=Tls("c"))),
    ],
)
def test_a_url_says_where_and_how(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://h", "the scheme is none of redis, redis"),
        ("redis://", "a host is missing"),
        ("redis+cluster://a,,b", "a host is missing"),
        ("redis://a,b", "several hosts need redis.sentinel:// or redis.cluster://"),
        ("redis://h:x", "h:x: "),
        ("redis://h:0", "h:0: no port to connect to"),
        ("redis://h:70000", "h:70000: "),
        ("redis://h/one", "the database is a number, not one"),
        ("redis://h/-1", "the database is a number"),
        ("redis://h/1/2", "the database is a number, not 1/2"),
        ("redis+sentinel://h", "the master's name is missing"),
        ("redis+cluster://h/1", "a cluster has no numbered databases"),
        ("redis://h?timeout=1", "timeout is no parameter of redis://"),
        ("redis://h?ssl_ca=c", "ssl_ca is no parameter of redis://"),
        ("rediss://h?sentinel_password=c", "sentinel_password is no parameter of rediss://"),
        ("rediss://h?ssl_ca=c&ssl_ca=d", "given more than once"),
        ("rediss://h?ssl_check_hostname=maybe", "neither true nor false"),
        ("rediss://h?ssl_key=k", "ssl_key without ssl_cert"),
        ("redis://:a#b@h", "a # must be written %23"),
        ("redis://[::1", "Invalid IPv6"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url, complaint):
    with pytest.raises(ValueError, match=f"^cache URL: .*{complaint}"):
        parse(url)


def test_no_password_is_shown():
    for url in (
        "redis://u:secret@h",
        "redis+sentinel://u:secret@h/m?sentinel_password=secret",
        "http://u:secret@h",
        "redis://u:secret@h/x",
        "redis://u:secret@h:x",
        "redis://u:secret/with@h",
    ):
        try:
            shown = repr(parse(url))
        except ValueError as exc:
            shown = f"{exc!r} {exc.__context__!r}" if exc.__suppress_context__ is False else repr(exc)
        assert "secret" not in shown, url
