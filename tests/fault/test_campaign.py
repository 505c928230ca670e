"""A short round of each kind of fault over one fleet: whatever breaks comes back by itself, and nothing is lost."""

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.conftest import need
from tests.fault.campaign import Campaign
from tests.fault.faults import KINDS, SHORT
from tests.fault.plans import plan_of, plans, random_plan
from tests.fault.site import opened_site
from tests.harness.maria import MariaServer
from tests.harness.rabbit import RabbitServer
from tests.harness.server import Guard

pytestmark = pytest.mark.timeout(240)
SEED = 20261124
# These are short and alike: one round has all of a sort, one soon after the other.
SORTS = ("pause", "cut", "half-open", "slow")
ROUNDS = {kind: (kind,) for kind in KINDS if not kind.startswith(SORTS)} | {
    f"every-{sort}": tuple(kind for kind in KINDS if kind.startswith(sort)) for sort in SORTS
}
SHORT_RUN = {"kill-gateway", "kill-rabbit", "every-pause", "every-cut", "full-rabbit"}
"""What the others break is broken in shorter tests too: a processor in test_redelivery.py and in the brokers' contract
(a mortal consumer), MariaDB killed, read-only and half open in test_sql_mysql_faults.py, RabbitMQ half open in
test_rabbitmq_publishing.py; a slow link fails nothing."""
LONG = pytest.mark.long
MET = {
    "kill-gateway": lambda figures: figures.reconnects > 0,
    "kill-rabbit": lambda figures: figures.silence_s > 1.0,
    "every-pause": lambda figures: figures.silence_s > 1.0,
    "every-cut": lambda figures: figures.reconnects > 0,
    "full-rabbit": lambda figures: figures.busy > 0,
}
"""What shows that a fault was felt, for those that clients must feel."""


@pytest.fixture(scope="module")
def campaign_servers(server_guard: Guard) -> tuple[RabbitServer, MariaServer]:
    for server in (RabbitServer, MariaServer):
        missing = server.missing()
        need(missing is None, missing or "")
    return RabbitServer(server_guard), MariaServer(server_guard)


@pytest.fixture(scope="module")
async def campaign(
    campaign_servers: tuple[RabbitServer, MariaServer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Campaign]:
    directory = tmp_path_factory.mktemp("campaign")
    # An open breaker would wait 15 s, in most of the rounds.
    async with opened_site(*campaign_servers, directory, {"CHATFLOW_BREAKER_RESET_S": "1"}) as site:
        yield Campaign(site, directory / "acks.jsonl", SHORT)


@pytest.mark.parametrize("name", [name if name in SHORT_RUN else pytest.param(name, marks=LONG) for name in ROUNDS])
async def test_a_fault_under_load_loses_doubles_and_reorders_nothing(campaign: Campaign, name: str) -> None:
    figures = await campaign.round(plan_of(ROUNDS[name], SEED + list(ROUNDS).index(name)))
    print(f"{'; '.join(figures.faults)}\n{figures}")
    assert figures.stored == figures.acked > 1_000
    assert MET.get(name, lambda _: True)(figures), f"nobody felt {name}: {figures}"


def test_a_seed_repeats_its_round() -> None:
    first, second = itertools.islice(plans(SEED), 2)
    assert first == random_plan(SEED)
    assert next(plans(second.seed)) == second
    assert first != second


@pytest.mark.parametrize("seed", range(20))
def test_thirty_rounds_have_every_kind(seed: int) -> None:
    drawn = list(itertools.islice(plans(seed), 30))
    assert set().union(*(plan.kinds for plan in drawn)) == set(KINDS)
    assert {len(plan.faults) for plan in drawn} == {1, 2}
