import asyncio

import pytest

from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.resilience.recovery import watch_for_recovery
from chatflow.ports.errors import StoreUnavailable
from tests.harness.clock import FakeClock
from tests.unit.fakes import cancel, settle


class Dependency:
    def __init__(self) -> None:
        self.is_up = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if not self.is_up:
            raise StoreUnavailable("down")


@pytest.fixture
async def scene():
    clock, ticks, dependency = FakeClock(), asyncio.Queue(), Dependency()
    breaker = CircuitBreaker(clock, failures=1, reset_s=15.0)

    async def sleep(_: float) -> None:
        await ticks.get()

    async def tick() -> None:
        ticks.put_nowait(None)
        await settle()

    watch = asyncio.create_task(watch_for_recovery([breaker], dependency.ping, sleep=sleep))
    yield breaker, dependency, tick
    await cancel(watch)


async def test_nobody_is_asked_while_the_circuit_is_closed(scene):
    _, dependency, tick = scene
    await tick()
    assert dependency.pings == 0


async def test_an_answer_lets_the_next_caller_probe_before_the_reset(scene):
    breaker, dependency, tick = scene
    breaker.failure()
    await tick()
    await tick()
    assert dependency.pings == 2
    assert breaker.retry_in_s() == 15.0
    dependency.is_up = True
    await tick()
    assert breaker.retry_in_s() == 0.0
    breaker.allow()


async def test_a_probe_that_fails_all_the_same_keeps_the_circuit_open(scene):
    breaker, dependency, tick = scene
    dependency.is_up = True
    breaker.failure()
    await tick()
    breaker.allow()
    assert breaker.failure()
    assert breaker.retry_in_s() == 15.0
