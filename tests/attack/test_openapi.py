"""Whatever the OpenAPI document allows, and whatever it does not, sent to a running api."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.harness.process import UpProcess

SEED = "20261130"
HOOKS = Path(__file__).with_name("openapi_hooks.py")


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[UpProcess]:
    process = UpProcess(tmp_path / "data")
    process.start()
    try:
        await process.ready()
        yield process
    finally:
        process.kill()


async def fill(up: UpProcess) -> None:
    """A few messages in a few rooms."""
    async with connect(f"ws://127.0.0.1:{up.gateway_port}/ws") as ws:
        await ws.send(json.dumps({"op": "hello", "userId": 1, "username": "ada"}))
        for number in range(6):
            send = {"op": "send", "room": str(number % 3), "text": f"{number}", "ref": number, "ack": "stored"}
            await ws.send(json.dumps(send))
        async with asyncio.timeout(30):
            while '"ref":5' not in str(await ws.recv()):
                pass


def schemathesis(up: UpProcess, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{up.api_port}/openapi.json"]
    common = ["--no-color", "--continue-on-failure", "--no-shrink"]
    checks = ["--exclude-checks", "positive_data_acceptance"]  # see the hooks, which are exact
    environ = os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}
    return subprocess.run(
        [*command, *common, *checks, *options],
        cwd=up.directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_passed(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert re.search(r"(\d+) selected / \1 total", result.stdout), result.stdout


@pytest.mark.timeout(300)
async def test_the_api_does_what_its_document_says(up: UpProcess) -> None:
    await fill(up)
    quick = ["--phases", "coverage,fuzzing", "-n", "5", "--generation-deterministic"]
    assert_passed(await asyncio.to_thread(schemathesis, up, *quick))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_api_does_what_its_document_says_at_length(up: UpProcess) -> None:
    await fill(up)
    assert_passed(
        await asyncio.to_thread(
            schemathesis, up, "-n", "300", "--generation-database", "none", "--seed", SEED, "--max-time", "300"
        )
    )
