"""What every fleet promises: the last word of each living process, and of no dead one."""

import pytest

from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.ports.fleet import RoleSnapshot
from tests.contract.cache_harnesses import TECHNOLOGIES, opener
from tests.harness.clock import FakeClock


@pytest.fixture(params=TECHNOLOGIES)
async def backend(request):
    async with opener(request)() as opened:
        yield opened


def said(instance, *, role="api", at_us=1, **counters):
    return RoleSnapshot(role, instance, at_us, counters, {"uptime_s": 1.5}, {"circuitBreaker": "CLOSED"})


async def test_an_empty_fleet_has_no_snapshots(backend):
    assert await backend.fleet.snapshots() == []


async def test_a_snapshot_comes_back_whole(backend):
    snapshot = said("a", hits=3)
    await backend.fleet.report(snapshot)
    assert await backend.fleet.snapshots() == [snapshot]


async def test_a_report_replaces_the_one_before(backend):
    await backend.fleet.report(said("a", hits=3))
    await backend.fleet.report(said("a", hits=4))
    assert await backend.fleet.snapshots() == [said("a", hits=4)]


async def test_every_instance_of_every_role_is_listed(backend):
    everyone = [said("a"), said("b"), said("a", role="gateway")]
    for snapshot in everyone:
        await backend.fleet.report(snapshot)
    listed = await backend.fleet.snapshots()
    assert sorted((s.role, s.instance) for s in listed) == [("api", "a"), ("api", "b"), ("gateway", "a")]


async def test_who_falls_silent_ages_out_and_who_speaks_stays(backend):
    await backend.fleet.report(said("silent"))
    await backend.fleet.report(said("speaking"))
    await backend.advance(40)
    await backend.fleet.report(said("speaking", at_us=2))
    assert len(await backend.fleet.snapshots()) == 2
    await backend.advance(40)
    assert [s.instance for s in await backend.fleet.snapshots()] == ["speaking"]


async def test_the_dead_take_no_memory():
    clock = FakeClock()
    fleet = MemoryFleet(clock)
    for n in range(1000):
        await fleet.report(said(str(n)))
        clock.advance(1)
    assert len(fleet._reports) <= 5
