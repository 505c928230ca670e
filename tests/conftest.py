"""What every tier shares: a clean environment, uvloop, Hypothesis profiles, and a watch for what tests leave behind."""

import asyncio
import inspect
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import thread as pool_threads
from pathlib import Path

import hypothesis
import pytest
import uvloop

pytest_plugins = ["tests.harness.fixtures", "tests.harness.overdue"]

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
LEAK_PATIENCE_S = 2.0
LONGEST = (
    "fault/test_campaign.py",
    "e2e/test_dead_letters.py",
    "integration/test_benchmarks.py",
    "e2e/test_cli.py",
    "integration/test_rabbitmq_publishing.py",
    "simulation/test_simulation.py",
    "contract/test_store.py",
    "e2e/test_roles.py",
    "e2e/test_pages_delivery.py",
    "e2e/test_pages.py",
    "integration/test_sql_mysql_faults.py",
    "e2e/test_cached_reads.py",
    "fault/test_kill_up.py",
    "fault/test_galera.py",
    "integration/test_gateway_abuse.py",
    "e2e/test_pages_outbox.py",
    "e2e/test_recovery.py",
    "integration/test_redelivery.py",
    "e2e/test_embedded_replay.py",
    "integration/test_harness.py",
    "e2e/test_cached_reads_rows.py",
    "unit/session/test_session_properties.py",
)
"""Modules that take longest, the longest first: begun last, one would run alone in the end."""
CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)

# The developer's own settings must not decide a test; this runs before any test module is imported.
for _name in [name for name in os.environ if name.startswith("CHATFLOW_")]:
    del os.environ[_name]

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if IN_CI else "default")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the roles run on."""
    return {"uvloop": uvloop.new_event_loop}


def need(found: object, reason: str) -> None:
    """Skip where something is not installed; under CI=true a missing part is a failure, so that nothing is skipped
    unseen."""
    if found:
        return
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first; all else keeps its order."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The installed Chromium or Chrome; skips (fails in CI) without one."""
    found = next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    need(found, "no Chromium found: install the package chromium")
    return str(found)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that names a TCP port of 127.0.0.1 that nothing listens on, another one at each call.

    Another process may take it before you do: where the program under test takes port 0, prefer that.
    """
    given: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in given:
                given.add(port)
                return port

    return find


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread that would keep a process alive, or a task, running."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_task_left_behind")
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + LEAK_PATIENCE_S
    for leaked in _blocking_threads() - before:
        leaked.join(max(0.0, deadline - time.monotonic()))
    names = sorted(str(leaked) for leaked in _blocking_threads() - before)
    assert not names, f"threads left running: {names}"


def _blocking_threads() -> set[threading.Thread]:
    """Threads the interpreter would wait for at exit, without executors' workers: those stay for the next job."""
    workers = set(pool_threads._threads_queues)
    return {thread for thread in threading.enumerate() if not thread.daemon} - workers


@pytest.fixture
async def _no_task_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    this = asyncio.current_task()
    left = asyncio.all_tasks() - before - {this}
    if left:
        _, pending = await asyncio.wait(left, timeout=LEAK_PATIENCE_S)
        names = sorted(str(task.get_coro()) for task in pending)
        for task in pending:
            task.cancel()
        assert not names, f"tasks left running: {names}"
