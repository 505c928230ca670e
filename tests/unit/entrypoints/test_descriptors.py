import asyncio
import errno
import os
import resource

import pytest
from structlog.testing import capture_logs

from chatflow.entrypoints.roles import descriptors
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Settings, load_settings
from tests.harness.waiting import eventually

UP = ("processor", "api", "gateway")


def taken(settings: Settings) -> int:
    """What clients may open in `chatflow up`."""
    gateway = settings.gateway
    return gateway.connections_max + gateway.handshakes_max + 3 * settings.common.http_connections_max


@pytest.mark.parametrize("limit", [1024, 4096, 20_000, 65_536])
def test_what_clients_may_open_leaves_the_process_what_it_needs(limit):
    settings = descriptors.fitted(Settings(), UP, limit)
    assert taken(settings) <= limit - descriptors.RESERVE
    assert settings.gateway.common is settings.api.common is settings.processor.common is settings.common
    assert settings.gateway.connections_max >= limit // 8


def test_with_enough_of_them_nothing_changes():
    assert descriptors.fitted(Settings(), UP, 65_536) == Settings()


def test_a_number_that_was_set_by_hand_and_does_not_fit_is_refused():
    settings = load_settings("up", {"CHATFLOW_CONNECTIONS_MAX": "5000"}, None)
    with pytest.raises(StartError, match=r"CHATFLOW_CONNECTIONS_MAX=5000 needs .* at most [0-9]+ connections fit"):
        descriptors.fitted(settings, UP, 4096)


def test_a_role_without_a_gateway_does_not_ask_for_its_connections():
    settings = load_settings("up", {"CHATFLOW_CONNECTIONS_MAX": "5000"}, None)
    assert descriptors.fitted(settings, ("api",), 4096).common.http_connections_max == 512


def test_the_limit_is_raised_to_what_the_system_lets_us(monkeypatch):
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert descriptors.raise_limit() == 4096
    assert limits[-1] == (4096, 4096)


async def test_a_process_that_has_none_left_says_so(monkeypatch):
    def fails(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(descriptors, "LOOK_S", 0.001)
    monkeypatch.setattr(descriptors, "TELL_S", 1e-9)
    looks = []
    monkeypatch.setattr(descriptors.os, "open", lambda *given: looks.append(given) or fails())
    with capture_logs() as logs:
        watching = asyncio.create_task(descriptors.watch())
        await eventually(lambda: len(looks) > 3)
        watching.cancel()
    assert {entry["event"] for entry in logs} == {"process.out_of_descriptors"}
