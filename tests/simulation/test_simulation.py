"""All promises of the write and delivery path, over many schedules and faults.

A failure prints ``simulate(Scenario(...))``, which repeats it. ``SIMULATION_SCHEDULES`` sets how many schedules the
long test runs: ``pytest tests/simulation -m long``.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from hypothesis import strategies as st

from chatflow.entrypoints.roles import gateway
from tests.simulation.faults import ClientPlan, Event, Scenario, Sizes, Weather, scenario_from
from tests.simulation.mutants import MUTANTS, RARE, Replace
from tests.simulation.world import Broken, simulate

SHORT_SCHEDULES = 200
LONG_SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "5000"))
CAUGHT_WITHIN = 400
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _quiet_log() -> Iterator[None]:
    """A gateway warns of each failed comparison of heads; here they fail by the thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway, "log", SimpleNamespace(warning=lambda *_, **__: None))
        yield


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return scenario_from(draw(st.randoms(use_true_random=False)))


def examples(count: int) -> hypothesis.settings:
    return hypothesis.settings(max_examples=count, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@examples(SHORT_SCHEDULES)
@hypothesis.given(scenarios())
def test_every_promise_is_kept_whatever_fails(scenario: Scenario) -> None:
    simulate(scenario)


@pytest.mark.long
@pytest.mark.timeout(0)
@examples(LONG_SCHEDULES)
@hypothesis.given(scenarios())
def test_every_promise_is_kept_over_thousands_of_schedules(scenario: Scenario) -> None:
    simulate(scenario)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_notices(mutant: Callable[[Replace], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch.setattr)
    with pytest.raises(Broken):
        _simulate_seeds(CAUGHT_WITHIN)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("mutant", RARE, ids=lambda mutant: mutant.__name__)
def test_the_simulation_notices_in_the_end(mutant: Callable[[Replace], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch.setattr)
    with pytest.raises(Broken):
        _simulate_seeds(10_000)


def test_messages_flow_where_nothing_fails() -> None:
    clients = (ClientPlan(messages=20, wants_stored=2), ClientPlan("chat", messages=20), ClientPlan(from_start=True))
    outcome = simulate(Scenario(1, clients=clients, sizes=Sizes(accept_bytes=50_000, queue_bytes=50_000)))
    assert (outcome.stored, outcome.dead, outcome.acked) == (46, 0, 46)
    assert outcome.ended_s < 10


def test_messages_flow_through_every_fault_at_once() -> None:
    clients = (
        ClientPlan(messages=20, from_start=True),
        ClientPlan("chat", messages=20),
        ClientPlan(messages=8, poison=4),
    )
    events = tuple(
        Event(kind, at_ms=400 * at + 300, target=at, steps=30, length_ms=500)
        for at, kind in enumerate(("kill_processor", "kill_gateway", "depose", "stop_processor", "broker_down", "cut"))
    )
    scenario = Scenario(7, clients=clients, weather=Weather(*[60] * 13), events=events)
    outcome = simulate(scenario)
    assert (outcome.stored, outcome.dead, outcome.acked) == (46, 2, 48)


def test_a_scenario_repeats_exactly() -> None:
    assert _digests() == _digests()


def test_a_scenario_repeats_exactly_in_another_process() -> None:
    program = "from tests.simulation.test_simulation import _digests; print(_digests())"
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert there.stdout.splitlines()[-1] == str(_digests())


def test_another_seed_is_another_schedule() -> None:
    clients = (ClientPlan(), ClientPlan())
    assert len({simulate(Scenario(seed, clients=clients)).digest for seed in range(10)}) == 10


def _digests() -> list[int]:
    return [simulate(scenario_from(random.Random(seed))).digest for seed in range(10)]


def _simulate_seeds(count: int) -> None:
    for seed in range(count):
        simulate(scenario_from(random.Random(seed)))
