"""Connections save round trips only where redis-py lets them, and a bug is no cache that is unavailable."""

import asyncio
import contextlib
import time

import pytest
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, ResponseError
from structlog.testing import capture_logs

from chatflow.adapters.redis import compat
from chatflow.adapters.redis.commands import RedisCommands
from chatflow.adapters.redis.services import open_redis
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.resilience.self_check import failed_checks
from chatflow.ports.errors import CacheUnavailable
from tests.harness.lifecycle import opened
from tests.harness.waiting import eventually


class OlderConnection:
    """Takes neither option."""

    def __init__(self, host="localhost"):
        pass


def test_the_locked_driver_passes_every_check():
    with capture_logs() as logs:
        assert {*compat.connection_options()} == {"driver_info", "maint_notifications_config"}
    assert logs == []


def test_a_driver_without_an_option_is_given_neither_and_one_warning_says_why(monkeypatch):
    monkeypatch.setattr(compat, "Connection", OlderConnection)
    with capture_logs() as logs:
        assert compat.connection_options() == {}
    assert [(entry["log_level"], entry["failed"]) for entry in logs] == [("warning", list(compat.CHECKS))]


def test_a_driver_whose_option_means_something_else_fails_its_check(monkeypatch):
    monkeypatch.setattr(compat, "_no_notifications", lambda: None)
    assert failed_checks(compat.CHECKS) == [list(compat.CHECKS)[1]]


async def test_the_setting_forces_the_fallback():
    with capture_logs() as logs:
        async with opened(open_redis("redis://127.0.0.1:1", clock=time.monotonic, driver_fallback=True)) as services:
            assert "driver_info" not in services.cache.commands.client.connection_pool.connection_kwargs
    assert [entry["event"] for entry in logs].count("cache.driver_fallback") == 1


class Client:
    """Fails as it is told to; else has no answer."""

    def __init__(self, error):
        self.error = error

    async def execute_command(self, *_):
        if self.error is not None:
            raise self.error

    evalsha = execute_command

    def register_script(self, source):
        return AsyncScript(self, source.encode())


def commands_over(client):
    breaker = CircuitBreaker(time.monotonic, failures=5, reset_s=0.01)
    return RedisCommands(client, breaker, channel="c", timeout_s=1, concurrency=1)


@pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("a bug"), AttributeError("a bug")])
async def test_a_bug_stays_what_it_is_and_says_nothing_about_redis(bug):
    commands = commands_over(Client(bug))
    with pytest.raises(type(bug)):
        await commands.command("GET", "key")
    assert commands.is_trusted


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        ResponseError("LOADING"),
        RedisClusterException("no slot"),
        ConnectionResetError(),
        asyncio.IncompleteReadError(b"", 7),
        TimeoutError(),
    ],
)
async def test_a_failure_of_redis_is_unavailable(error):
    with pytest.raises(CacheUnavailable):
        await commands_over(Client(error)).command("GET", "key")


async def test_a_bug_does_not_end_the_recovery_and_is_logged():
    client = Client(ResponseError("not yet"))
    commands = commands_over(client)
    with capture_logs() as logs:
        async with contextlib.AsyncExitStack() as stack:
            await commands.open()
            stack.push_async_callback(commands.close)
            commands.distrust()
            client.error = TypeError("a bug")
            await eventually(lambda: "cache.recovery_failed" in [entry["event"] for entry in logs])
            assert not commands.is_trusted
            client.error = None
            await eventually(lambda: commands.is_trusted)
