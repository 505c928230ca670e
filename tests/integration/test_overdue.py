"""A test that hangs fails at its timeout with the place where it waits, and the next one runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ON_UVLOOP = """
import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
"""
HANGS = """
import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
async def set_up_in_vain():
    await asyncio.Event().wait()


@pytest.fixture
async def cleaned_up_in_vain():
    yield
    await asyncio.Event().wait()


async def wait_for_nothing():
    await asyncio.Event().wait()


async def test_waits():
    await wait_for_nothing()


def test_sleeps():
    time.sleep(60)


async def test_waits_for_a_thread():
    await asyncio.to_thread(time.sleep, 3)


async def test_is_set_up(set_up_in_vain):
    pass


async def test_is_cleaned_up(cleaned_up_in_vain):
    pass


@given(st.integers())
async def test_tries_examples(value):
    await asyncio.Event().wait()


async def test_runs_on():
    while True:
        await asyncio.sleep(0)


async def test_comes_after_all_of_them():
    await asyncio.sleep(0)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints of a module of tests that hang."""
    directory = tmp_path_factory.mktemp("overdue")
    (directory / "test_hangs.py").write_text(HANGS)
    (directory / "conftest.py").write_text(ON_UVLOOP)
    (directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\ntimeout = 1\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.harness.overdue",
            "-p",
            "no:cacheprovider",
            "-rA",
            str(directory),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ["waits", "sleeps", "waits_for_a_thread", "tries_examples", "runs_on"])
def test_a_test_that_hangs_fails(told: str, name: str) -> None:
    assert f"FAILED test_hangs.py::test_{name} - Failed: took more than 1 s" in told


@pytest.mark.parametrize("name", ["is_set_up", "is_cleaned_up"])
def test_a_fixture_that_hangs_is_an_error(told: str, name: str) -> None:
    assert f"ERROR test_hangs.py::test_{name} - Failed: took more than 1 s" in told


def test_the_tests_after_it_run(told: str) -> None:
    assert "PASSED test_hangs.py::test_comes_after_all_of_them" in told


def test_where_it_waits_is_told(told: str) -> None:
    line = HANGS.splitlines().index("    await wait_for_nothing()") + 1
    assert f"test_hangs.py:{line} test_waits" in told
    assert f"test_hangs.py:{line - 4} wait_for_nothing" in told
