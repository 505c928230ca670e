"""A neighbour process, or a second ``chatflow up``, at one data directory."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chatflow.entrypoints.data_directory import in_use
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common
from tests.harness.ports import free_port
from tests.harness.process import PORTS, UpProcess, run_command


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Whatever is created gets the mode that was asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


def data_of(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def up(tmp_path: Path, open_umask: None) -> AsyncIterator[UpProcess]:
    process = UpProcess(tmp_path, {"CHATFLOW_DATA_DIR": str(data_of(tmp_path))})
    data_of(tmp_path).mkdir()  # for everybody, as an operator's `mkdir` would
    process.start()
    try:
        await process.ready()
        yield process
    finally:
        process.kill()


def run(up: UpProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    ports = {f"CHATFLOW_{name}": str(free_port()) for name in PORTS["up"]}
    return run_command(up.directory, up.settings | ports, *arguments)


def is_refused(result: subprocess.CompletedProcess[str], *words: object) -> bool:
    """Exit code 2 and one line with these words."""
    lines = result.stderr.splitlines()
    return result.returncode == 2 and len(lines) == 1 and all(str(word) in lines[0] for word in words)


async def test_one_data_directory_belongs_to_one_process_until_its_end_and_to_one_user(
    up: UpProcess, tmp_path: Path
) -> None:
    data = data_of(tmp_path)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in data.iterdir()}
    assert {"chatflow.db", "chatflow.db-wal", "chatflow.db-shm", "broker.sock"} <= set(modes)
    assert set(modes.values()) == {"0o600"}, modes
    assert oct(data.stat().st_mode & 0o777) == "0o700"

    assert is_refused(run(up, "up"), data, up.pid, "in use")
    assert is_refused(run(up, "migrate"), data, up.pid)
    (data / "broker.sock").unlink()  # as while it starts, or drains
    assert is_refused(run(up, "dlq", "replay", "--all"), data, up.pid)
    up.kill()
    assert run(up, "migrate").stdout == "the schema is up to date\n"


def test_neither_the_database_nor_the_broker_of_a_process_is_used_by_another(tmp_path: Path) -> None:
    def common(data: str, database: str, broker: str = "memory://") -> Common:
        return Common(broker_url=broker, data_dir=tmp_path / data, database_url=f"sqlite:///{tmp_path / database}")

    def may_use(settings: Common, *, alone: bool) -> bool:
        try:
            with in_use(settings, alone=alone):
                return True
        except StartError as exc:
            return f"process {os.getpid()}" not in str(exc)

    (tmp_path / "link").symlink_to(tmp_path / "a")
    role = common("c", "a/chat.db", "amqp://localhost")
    with in_use(common("a", "a/chat.db"), alone=True):
        assert not may_use(common("b", "a/chat.db"), alone=True)
        assert not may_use(common("b", "link/chat.db"), alone=True)
        assert not may_use(common("a", "b/chat.db"), alone=True)
        assert not may_use(role, alone=False)
        assert may_use(common("b", "b/chat.db"), alone=True)
    with in_use(role, alone=False):
        assert may_use(role, alone=False)
        assert not may_use(common("a", "a/chat.db"), alone=True)
    assert may_use(common("b", "a/chat.db"), alone=True)


async def test_the_files_of_an_older_version_are_closed_to_other_users(tmp_path: Path, open_umask: None) -> None:
    first = run_command(tmp_path, {"CHATFLOW_DATA_DIR": str(tmp_path / "old")}, "migrate")
    assert first.returncode == 0
    old = tmp_path / "data"
    shutil.copytree(tmp_path / "old", old)
    (old / "chatflow.db-wal").touch()
    for path in old.iterdir():
        path.chmod(0o644)
    assert run_command(tmp_path, {"CHATFLOW_DATA_DIR": str(old)}, "migrate").returncode == 0
    assert {oct(path.stat().st_mode & 0o777) for path in old.iterdir()} == {"0o600"}
