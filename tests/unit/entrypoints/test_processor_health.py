"""What ``/health`` of a processor says: collisions are loud, and the worst circuit counts."""

from types import SimpleNamespace

import pytest

from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.entrypoints.roles.processor import ProcessorRole
from chatflow.ports.errors import SequenceCollision
from tests.harness.clock import FakeClock
from tests.unit.fakes import FakeBroker, FakeStore


@pytest.fixture
def role() -> ProcessorRole:
    metrics = PersistenceMetrics()
    processors = [
        PartitionProcessor(
            partition, FakeBroker(), None, CircuitBreaker(FakeClock()), None, metrics, new_buffer=lambda: None
        )
        for partition in range(3)
    ]
    none = SimpleNamespace()
    return ProcessorRole(none, none, processors, metrics, FakeBroker(), FakeStore(), None, none, none, none)


async def test_a_processor_is_fit_while_every_partition_runs(role: ProcessorRole) -> None:
    report = await role.health()
    assert report.ok
    assert report.details == {"circuitBreaker": "CLOSED", "buffered": 0, "stoppedPartitions": {}}


async def test_a_partition_that_a_collision_has_stopped_makes_the_processor_unfit_and_is_named(
    role: ProcessorRole,
) -> None:
    role.processors[1].stopped_by = SequenceCollision("lobby, 7")
    report = await role.health()
    assert not report.ok
    assert list(report.details["stoppedPartitions"]) == ["1"]
    assert "lobby, 7" in report.details["stoppedPartitions"]["1"]


async def test_the_circuit_of_the_worst_partition_is_shown(role: ProcessorRole) -> None:
    for _ in range(role.processors[2].breaker.failures):
        role.processors[2].breaker.failure()
    assert (await role.health()).details["circuitBreaker"] == "OPEN"
