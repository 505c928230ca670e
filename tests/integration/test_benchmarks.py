"""Every scenario of ``make bench`` in small: it runs, it counts something, nothing is lost. Speed does not matter."""

import pytest
from rich.console import Console

from benchmarks import reads
from benchmarks.cache_faults import bench_cache_faults
from benchmarks.embedded import bench_embedded
from benchmarks.hostile import Plan, bench_hostile
from benchmarks.mix import bench_mix
from benchmarks.outages import OutageTimes, bench_outages
from benchmarks.reads import bench_reads
from benchmarks.separate import bench_separate
from benchmarks.servers import Servers

SECONDS = 0.5
ROWS = 2_000
TIMES = OutageTimes(quiet_s=0.5, maria_down_s=0.5, rabbit_down_s=0.5, after_s=0.5)


@pytest.fixture
def console():
    """Prints where pytest shows it when a test fails."""
    return Console(width=130, highlight=False)


@pytest.fixture
def servers(rabbit_server, maria_server, redis_server):
    for each in (rabbit_server, maria_server, redis_server):
        each.make_ready()
    return Servers(rabbit_server, maria_server, redis_server)


def assert_worked(report):
    assert report.exit_code == 0
    assert report.counts
    assert all(report.counts.values()), report.counts


async def test_embedded_stores_on_both_paths(console):
    assert_worked(await bench_embedded(console, SECONDS))


async def test_separate_stores_in_a_profile(console, servers):
    assert_worked(await bench_separate(console, servers, ["O12"], SECONDS))


async def test_outages_of_every_server_lose_nothing(console, servers):
    assert_worked(await bench_outages(console, servers, TIMES))


async def test_reads_answer_queries_on_a_cold_and_a_warm_database(console, maria_server, monkeypatch):
    maria_server.make_ready()
    monkeypatch.setattr(reads, "CALLS", 3)
    report = await bench_reads(console, maria_server, ["O2"], ROWS, reads.QUERIES[::5])
    assert_worked(report)
    assert report.missed == 0


async def test_the_mix_reads_writes_and_hits_the_cache(console, servers):
    report = await bench_mix(console, servers, ["O12"], SECONDS, ROWS)
    assert_worked(report)
    assert report.missed == 0


async def test_the_cache_comes_back_from_every_fault(console, servers):
    assert_worked(await bench_cache_faults(console, servers, SECONDS, ROWS))


async def test_polite_clients_are_served_under_an_attack(console):
    assert_worked(await bench_hostile(console, None, Plan(["zeros after hello"], [1], SECONDS)))
