"""RabbitMQ, MariaDB and Redis over TLS with a private authority: verified, or refused in one line that says why."""

import time
from collections.abc import Awaitable, Callable

import pytest

from chatflow.adapters.rabbitmq.address import parse as parse_broker
from chatflow.adapters.rabbitmq.broker import open_broker
from chatflow.adapters.redis.services import open_redis
from chatflow.adapters.sql.mysql.url import driver_arguments
from chatflow.adapters.sql.opening import open_database
from chatflow.entrypoints.settings.addresses import check_cache
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, StoreUnavailable
from tests.harness.certificates import Authority

WRONG_NAME = "certificate is not valid for '127.0.0.1'"
WRONG_AUTHORITY = "unable to get local issuer certificate"


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "somebody else")


def with_tls(url: str, port: int, authority: Authority, host: str = "localhost") -> str:
    scheme, rest = url.split("://")
    before, _, after = rest.rpartition("@")
    path = after.partition("/")[2].partition("?")[0]
    secure = {"amqp": "amqps", "redis": "rediss"}.get(scheme, scheme)
    return f"{secure}://{before}{'@' if before else ''}{host}:{port}/{path}?ssl_ca={authority.certificate}"


async def check_verified(
    ask: Callable[[str], Awaitable[None]],
    url: str,
    port: int,
    *,
    trusted: Authority,
    stranger: Authority,
    error: type[Exception],
) -> None:
    """The server's own authority will do; another one, or another name, is refused in one line that says so."""
    await ask(with_tls(url, port, trusted))
    for wrong, why in (
        (with_tls(url, port, stranger), WRONG_AUTHORITY),
        (with_tls(url, port, trusted, "127.0.0.1"), WRONG_NAME),
    ):
        with pytest.raises(error, match=why) as refused:
            await ask(wrong)
        assert "\n" not in str(refused.value)


@pytest.fixture(params=[False, True], ids=["direct", "fallback"])
def fallback(request) -> bool:
    return request.param


async def open_and_close(url: str, *, fallback: bool) -> None:
    broker = open_broker([url], partitions=1, queue_limit_bytes=2**20, driver_fallback=fallback)
    try:
        await broker.open()
        await broker.ping()
    finally:
        await broker.close()


async def test_rabbitmq_is_verified(vhost_url, rabbit_server, authority, stranger, fallback):
    port = rabbit_server.tls_port

    async def ask(url: str) -> None:
        await open_and_close(url, fallback=fallback)

    await check_verified(ask, vhost_url, port, trusted=authority, stranger=stranger, error=BrokerUnavailable)
    with pytest.raises(BrokerUnavailable, match=f"connect to localhost:{port}: "):
        await ask(with_tls(vhost_url, port, stranger))


async def ask_database(url: str) -> None:
    database = open_database(url)
    try:
        await database.open()
        await database.ping()
    finally:
        await database.close()


async def test_mariadb_is_verified(maria_url, maria_server, authority, stranger):
    port = maria_server.port
    await check_verified(ask_database, maria_url, port, trusted=authority, stranger=stranger, error=StoreUnavailable)


async def ask_cache(url: str) -> None:
    services = open_redis(url, clock=time.monotonic, timeout_s=5.0)
    try:
        await services.open()
        await services.ping()
    finally:
        await services.close()


async def test_redis_is_verified(redis_url, redis_server, authority, stranger):
    port = redis_server.tls_port
    await check_verified(ask_cache, redis_url, port, trusted=authority, stranger=stranger, error=CacheUnavailable)


@pytest.mark.parametrize(
    ("parse", "url"),
    [
        (parse_broker, "amqps://u:s3cret@h/v?{}"),
        (driver_arguments, "mysql+asyncmy://u:s3cret@h/v?{}"),
        (check_cache, "rediss://u:s3cret@h/0?{}"),
    ],
    ids=["rabbitmq", "mariadb", "redis"],
)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("ssl_ca=/no/such/file", "ssl_ca /no/such/file"),
        ("ssl_key=/x", "ssl_key without ssl_cert"),
        ("ssl_cert=/no/such/file", "ssl_cert /no/such/file"),
        ("ssl_check_hostname=perhaps", "ssl_check_hostname"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_its_name(parse, url, parameters, words):
    with pytest.raises(ValueError, match=words) as refused:
        parse(url.format(parameters))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp://h/v?ssl_ca=/x", "ssl_ca needs amqps://"),
        ("amqps://h/v?no_verify_ssl=1", "no_verify_ssl is not possible"),
        ("amqps://h/v?cafile=/x", "cafile is called ssl_ca here"),
    ],
)
def test_rabbitmq_is_never_left_unverified(url, words):
    with pytest.raises(ValueError, match=words):
        parse_broker(url)
