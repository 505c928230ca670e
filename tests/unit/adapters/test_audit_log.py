import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatflow.adapters.audit_log import CHANNEL, AuditLog
from tests.harness.clock import FakeClock


class Trail:
    def __init__(self, path: Path, clock: FakeClock, **options: Any) -> None:
        self.path, self.clock = path, clock
        self.log = AuditLog(clock, path, **options)

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (path or self.path).read_text().splitlines()]

    def seen(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(line.get(name) for name in names) for line in self.lines()]


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    found = Trail(tmp_path / "audit.log", FakeClock(), lines_per_s=4, facts={"role": "gateway"})
    yield found
    found.log.close()
    logging.getLogger(CHANNEL).handlers.clear()
    logging.getLogger(CHANNEL).propagate = True


def test_each_entry_is_one_line_of_json_with_its_time(trail):
    trail.log.signed_in(7, "ada", "192.0.2.1", "jti-1")
    trail.log.denied("forbidden", "192.0.2.1", user_id=7, room="ops", operation="join")
    trail.log.acted("token.revoked", "cli:root", token_id="jti-1")
    assert trail.seen("event", "role") == [
        ("session.signed_in", "gateway"),
        ("access.denied", "gateway"),
        ("token.revoked", "gateway"),
    ]
    first, second, third = trail.lines()
    assert (first["user_id"], first["username"], first["address"], first["token_id"]) == (
        7,
        "ada",
        "192.0.2.1",
        "jti-1",
    )
    assert (second["reason"], second["room"], second["operation"]) == ("forbidden", "ops", "join")
    assert (third["by"], third["timestamp"][-1]) == ("cli:root", "Z")


def test_denials_of_one_address_are_summed_up_per_second_and_none_is_lost(trail):
    for _ in range(1000):
        trail.log.denied("bad_token", "192.0.2.1")
    assert trail.seen("reason", "again") == [("bad_token", None)]
    trail.clock.now += 1.0
    trail.log.settle()
    assert trail.seen("address", "reason", "again") == [
        ("192.0.2.1", "bad_token", None),
        ("192.0.2.1", "bad_token", 999),
    ]
    trail.log.denied("bad_token", "192.0.2.1")
    assert len(trail.lines()) == 3
    assert trail.log.counts() == {"audit_entries": 3, "audit_summed": 999, "audit_failures": 0}


def test_more_addresses_than_fit_into_a_second_are_counted_together(trail):
    for number in range(100):
        trail.log.denied("bad_token", f"2001:db8::{number}")
    trail.log.close()
    assert trail.seen("address", "again") == [*((f"2001:db8::{n}", None) for n in range(4)), ("others", 96)]


def test_sign_ins_of_different_users_of_one_address_are_told_apart(trail):
    for user_id in (7, 8, 7):
        trail.log.signed_in(user_id, "ada", "192.0.2.1")
    trail.log.close()
    assert trail.seen("user_id", "again") == [(7, None), (8, None), (7, 1)]


def test_what_was_done_by_hand_is_never_summed_up(trail):
    for _ in range(10):
        trail.log.acted("dead_letters.replayed", "cli:root")
    assert len(trail.lines()) == 10


def test_a_token_or_a_control_character_never_gets_in(trail):
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0.c2lnbmF0dXJlLW9mLWl0"
    trail.log.denied("bad_token", "192.0.2.1", path=f"/x/{token}", username="a\x1b[2J\u202e\n")
    trail.log.acted("process.started", "process", settings={"CHATFLOW_KEY": f"Bearer {token}"}, detail="x" * 5000)
    text = trail.path.read_text()
    assert "eyJ" not in text
    assert trail.lines()[0]["username"] == "a\ufffd[2J\ufffd\ufffd"
    assert len(trail.lines()[1]["detail"]) == 256


def test_only_its_owner_reads_the_file(trail, tmp_path):
    trail.log.acted("a", "process")
    assert stat.S_IMODE(trail.path.stat().st_mode) == 0o600
    given = tmp_path / "given.log"
    given.touch()
    given.chmod(0o644)
    AuditLog(trail.clock, given)
    assert stat.S_IMODE(given.stat().st_mode) == 0o640


def test_the_trail_goes_on_in_a_new_file_after_logrotate(trail, tmp_path):
    trail.log.acted("before", "process")
    trail.path.rename(tmp_path / "audit.log.1")
    trail.log.acted("after", "process")
    assert [line["event"] for line in trail.lines(tmp_path / "audit.log.1")] == ["before"]
    assert trail.seen("event") == [("after",)]
    assert stat.S_IMODE(trail.path.stat().st_mode) == 0o600


def test_a_trail_that_cannot_be_written_is_counted_and_recovers(trail, tmp_path):
    trail.log.acted("before", "process")
    trail.path.unlink()
    trail.path.mkdir()
    trail.log.acted("lost", "process")
    trail.log.acted("lost", "process")
    assert trail.log.counts()["audit_failures"] == 2
    trail.path.rmdir()
    trail.log.acted("after", "process")
    assert trail.seen("event") == [("after",)]


def test_a_full_disk_is_counted_and_leaves_no_half_line_behind(trail):
    full = AuditLog(trail.clock, Path("/dev/full"))
    full.acted("lost", "process")
    full.acted("lost", "process")
    assert full.counts()["audit_failures"] == 2
