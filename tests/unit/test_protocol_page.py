"""docs/protocol.md says what the program does: its codes, limits and texts."""

import re
from pathlib import Path

import pytest

from chatflow.adapters.aiohttp.openapi import openapi_document
from chatflow.domain.messages.errors import Conflict, InvalidMessage, InvalidRoom, Malformed
from chatflow.domain.session import errors
from chatflow.entrypoints.settings import GatewaySettings
from chatflow.ports.errors import BufferFull, StoreUnavailable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocol.md").read_text()
SOURCES = [path.read_text() for path in (ROOT / "src/chatflow").rglob("*.py")]


def section(title: str) -> str:
    """From a heading to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[2]


def test_the_page_lists_every_error_code_of_ws() -> None:
    ours = {errors.error_code(error) for error in (InvalidMessage(""), InvalidRoom(64), Malformed(""), BufferFull(""))}
    ours |= {errors.error_code(StoreUnavailable("")), errors.error_code(Conflict())}
    ours |= {code for source in SOURCES for code in re.findall(r'Denied\(\s*"(\w+)"', source)}
    assert set(re.findall(r"^\| `(\w+)` \| (?:yes|no) \|", section("error"), re.MULTILINE)) == ours


def test_the_page_lists_every_close_code() -> None:
    ours = {value for value in vars(errors).values() if isinstance(value, int)}
    assert {1008, 1009, 1012, 1013, 4401} <= ours
    listed = {int(code) for code in re.findall(r"\b(?:10|44)\d\d\b", section("Close codes"))}
    assert ours <= listed


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("hello", f"within {GatewaySettings().hello_timeout_s:.0f} seconds"),
        ("hello", f'"heartbeat":{GatewaySettings().heartbeat_s:.0f}'),
        ("join", f"at most {GatewaySettings().replay_limit:,} behind"),
        ("Liveness", f"every {GatewaySettings().heartbeat_s:.0f} seconds"),
        ("Close codes", f"({GatewaySettings().connections_max:,} connections)"),
        ("Limits", f"| {GatewaySettings().frame_max_bytes // 1024} KiB |"),
        ("Limits", f"| {GatewaySettings().rooms_per_connection} |"),
        ("Limits", f"| {GatewaySettings().inflight_per_connection:,} |"),
        ("Limits", f"| {GatewaySettings().outbound_limit_bytes // 2**20} MiB |"),
        ("Limits", f"| {GatewaySettings().replay_limit:,} messages |"),
        ("Limits", f"| {GatewaySettings().protocol_errors_max} a minute |"),
    ],
)
def test_the_page_gives_the_default_limits(title: str, words: str) -> None:
    assert words in section(title)


def test_the_page_lists_every_path_and_parameter_of_the_read_side() -> None:
    rows = dict(re.findall(r"^\| (`/api/[^|]*) \|([^|]*)\|", section("REST reads"), re.MULTILINE))
    listed = {
        path: set(re.findall(r"`(\w+)`", parameters))
        for paths, parameters in rows.items()
        for path in re.findall(r"`([^`]+)`", paths)
    }
    described = {
        path: {parameter["name"] for parameter in operations["get"]["parameters"]}
        for path, operations in openapi_document("0")["paths"].items()
        if path.startswith("/api/")
    }
    assert listed == described
