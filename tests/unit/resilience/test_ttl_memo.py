"""One working out for all who ask within a moment."""

import asyncio

import pytest

from chatflow.domain.resilience.ttl_memo import TtlMemo
from tests.harness.clock import FakeClock


class Work:
    def __init__(self):
        self.done = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None

    async def __call__(self):
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.done += 1
        return self.done


async def test_an_answer_is_given_again_until_its_moment_is_over():
    clock, work = FakeClock(), Work()
    lately = TtlMemo(work, clock, 0.25)
    first = await lately.get()
    clock.advance(0.24)
    assert await lately.get() == first == 1
    clock.advance(0.01)
    assert await lately.get() == 2


async def test_who_asks_meanwhile_waits_for_the_same_answer():
    work = Work()
    work.gate.clear()
    lately = TtlMemo(work, FakeClock(), 0.0)
    asking = [asyncio.create_task(lately.get()) for _ in range(10)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*asking) == [1] * 10
    assert await lately.get() == 2


async def test_the_moment_counts_from_when_the_work_began():
    clock, work = FakeClock(), Work()
    work.gate.clear()
    lately = TtlMemo(work, clock, 0.25)
    asking = asyncio.create_task(lately.get())
    for _ in range(5):
        await asyncio.sleep(0)
    clock.advance(0.3)
    work.gate.set()
    assert await asking == 1
    assert await lately.get() == 2


async def test_a_failure_is_not_kept():
    work = Work()
    lately = TtlMemo(work, FakeClock(), 10.0)
    work.error = RuntimeError("no")
    with pytest.raises(RuntimeError):
        await lately.get()
    work.error = None
    assert await lately.get() == 1
