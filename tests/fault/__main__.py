"""``make fault``: rounds of random faults; each prints its seed, and ``SEED=`` makes it the first round again."""

import argparse
import itertools
import platform
import random
import shutil
import tempfile
from pathlib import Path

import uvloop

from tests.fault import verdict
from tests.fault.campaign import Campaign
from tests.fault.faults import LONG, SHORT, Lengths
from tests.fault.plans import SEEDS, plans
from tests.fault.site import opened_site
from tests.harness.maria import MariaServer
from tests.harness.mysql import MYSQL, MysqlServer
from tests.harness.rabbit import RABBITMQ_4, RabbitServer
from tests.harness.server import Guard

FALLBACK = {"CHATFLOW_DRIVER_FALLBACK": "true"}


def newer_servers(guard: Guard) -> tuple[RabbitServer, MariaServer]:
    """RabbitMQ 4 and MySQL."""
    for root in (RABBITMQ_4, MYSQL):
        root.provide()
    return RabbitServer(guard, root=RABBITMQ_4), MysqlServer(guard, root=MYSQL)


async def run(rounds: int, seed: int, lengths: Lengths, directory: Path, *, fallback: bool, newer: bool) -> None:
    """Print each round's faults and figures; logs and ledger go to ``directory``.

    Raises:
        AssertionError: something is not as promised; alone or in a group.
    """
    print(f"{rounds} rounds from seed {seed}, Python {platform.python_version()}", flush=True)
    with Guard() as guard:
        rabbit, maria = newer_servers(guard) if newer else (RabbitServer(guard), MariaServer(guard))
        async with opened_site(rabbit, maria, directory, FALLBACK if fallback else {}) as site:
            campaign = Campaign(site, directory / "acks.jsonl", lengths)
            for number, plan in enumerate(itertools.islice(plans(seed), rounds), start=1):
                print(f"round {number}, seed {plan.seed}: {', '.join(sorted(plan.kinds))}", flush=True)
                try:
                    figures = await campaign.round(plan)
                except BaseException:
                    print(f"round {number} failed; again: make fault ROUNDS=1 SEED={plan.seed}", flush=True)
                    raise
                print(f"    {'; '.join(figures.faults)}\n    {figures}", flush=True)
            codes = await site.fleet.stop()
            assert not any(codes.values()), f"exit codes of the drain: {codes}"
    print(f"{rounds} rounds passed: {campaign.acked:,} acks, {verdict.NOTHING_WRONG}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fault", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: any")
    parser.add_argument("--short", action="store_true", help="faults as short as in make test")
    parser.add_argument("--fallback", action="store_true", help="use only documented parts of every driver")
    parser.add_argument("--newer", action="store_true", help="on MySQL and RabbitMQ 4")
    arguments = parser.parse_args()
    seed = random.randrange(SEEDS) if arguments.seed is None else arguments.seed
    directory = Path(tempfile.mkdtemp(prefix="chatflow-fault-"))
    try:
        lengths = SHORT if arguments.short else LONG
        chosen = {"fallback": arguments.fallback, "newer": arguments.newer}
        uvloop.run(run(arguments.rounds, seed, lengths, directory, **chosen))
    except BaseException:
        print(f"logs and ledger are kept in {directory}", flush=True)
        raise
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
