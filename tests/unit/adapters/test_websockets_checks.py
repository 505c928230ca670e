import pytest
from structlog.testing import capture_logs

from chatflow.adapters.websockets import compat


async def test_the_library_is_as_the_adapter_expects() -> None:
    with capture_logs() as logs:
        assert compat.uses_private_parts()
    assert logs == []


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("process_event", lambda self, event: None),
        ("parse", lambda self, data: None),
        ("pause_writing", lambda self: None),
        ("connection_lost", lambda self, exc: None),
        ("send_data", lambda self: None),
        ("send_data", None),
    ],
)
async def test_a_part_that_is_not_as_expected_is_noticed_and_said_once(monkeypatch, name, broken) -> None:
    monkeypatch.setattr(compat.DirectPeer, name, broken)
    with capture_logs() as logs:
        assert not compat.uses_private_parts()
    (warning,) = logs
    assert (warning["event"], warning["log_level"]) == ("gateway.driver_fallback", "warning")
    assert warning["failed"]


async def test_the_fallback_can_be_asked_for() -> None:
    with capture_logs() as logs:
        assert not compat.uses_private_parts(forced_fallback=True)
    assert [each["failed"] for each in logs] == [["CHATFLOW_DRIVER_FALLBACK is set"]]
