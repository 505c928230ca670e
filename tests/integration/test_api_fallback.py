"""When aiohttp is not what the adapter was written for, the read side is served by documented parts alone."""

import pytest
from structlog.testing import capture_logs

from chatflow.adapters.aiohttp import compat
from tests.api_harness import open_api

TOP = "/api/analytics/top-rooms"


async def test_every_self_check_holds_on_the_installed_version():
    assert compat.unexpected() == []


@pytest.mark.parametrize("name", compat.CHECKS)
async def test_one_failed_check_is_one_warning_and_the_documented_way(monkeypatch, name):
    monkeypatch.setattr(compat, "CHECKS", {**compat.CHECKS, name: lambda: False})
    with capture_logs() as logs:
        async with open_api(listens=True) as api:
            answers = [await api.body(TOP) for _ in range(3)]
            connections = api.server._runner.server.connections
            assert not any(isinstance(each, compat.DirectHandler) for each in connections)
            assert api.server._runner.server.requests_count == 3
    assert [answer["cached"] for answer in answers] == [False, True, True]
    assert [(entry["event"], entry["failed"]) for entry in logs if entry["log_level"] == "warning"] == [
        ("http.driver_fallback", [name])
    ]


async def test_it_may_be_asked_for():
    async with open_api(fallback=True) as api:
        assert (await api.body(TOP))["query"] == "topActiveRooms"
        assert not any(isinstance(each, compat.DirectHandler) for each in api.server._runner.server.connections)
