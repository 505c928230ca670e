"""Rounds of faults under load, over one fleet that nobody restarts: after each, everything is checked."""

import asyncio
from pathlib import Path
from random import Random

import attrs

from tests.fault import verdict
from tests.fault.crowd import Crowd
from tests.fault.faults import KINDS, Lengths
from tests.fault.plans import Plan, PlannedFault
from tests.fault.site import Site

WARM_UP_S = 0.7


@attrs.define
class Figures:
    """What happened in a round; times in seconds.

    Attributes:
        faults: each with its target and when it began and ended.
        repeated: times that a message was sent again.
        refused: answers that said retryable, of these ``busy`` for lack of room.
        recovered_s: from the end of the last fault until all roles were fit and every sender got acks again.
        silence_s: the longest time without an ack of anybody.
    """

    faults: list[str] = attrs.field(factory=list)
    sent: int = 0
    repeated: int = 0
    acked: int = 0
    stored: int = 0
    refused: int = 0
    busy: int = 0
    reconnects: int = 0
    recovered_s: float = 0.0
    silence_s: float = 0.0
    took_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"sent {self.sent:,} acked {self.acked:,} stored {self.stored:,}, "
            f"repeated {self.repeated:,} refused {self.refused:,} (full {self.busy:,}) reconnects {self.reconnects}, "
            f"recovered in {self.recovered_s:.1f} s, longest silence {self.silence_s:.1f} s, took {self.took_s:.0f} s"
        )

    def count(self, crowd: Crowd) -> None:
        """Take in what its clients counted."""
        senders = crowd.senders
        self.sent = sum(sender.sent for sender in senders)
        self.repeated = sum(sender.copies for sender in senders) - self.sent
        self.acked = sum(sender.acked for sender in senders)
        self.refused = sum(sender.refused for sender in senders)
        self.busy = sum(sender.reasons["busy"] for sender in senders)
        self.reconnects = sum(client.connects - 1 for client in (*senders, *crowd.listeners))
        self.silence_s = crowd.longest_silence_s


@attrs.define(eq=False)
class Campaign:
    """Rounds over one site, with one ledger of all acks."""

    site: Site
    ledger_path: Path
    lengths: Lengths
    acked: int = attrs.field(default=0, init=False)

    async def round(self, plan: Plan) -> Figures:
        """Send, break, wait until it works again, and check everything.

        Raises:
            AssertionError: it did not recover, or something is not as promised.
        """
        figures = Figures()
        begin = _now()
        with self.ledger_path.open("a", buffering=1) as ledger:
            crowd = Crowd.drawn(self.site, plan.seed, ledger)
            self.site.senders = crowd.senders
            async with crowd.at_work():
                await asyncio.sleep(WARM_UP_S)
                figures.faults = await self._break(plan)
                ended = _now()
                await verdict.recovered(self.site)
                figures.recovered_s = _now() - ended
                await crowd.finish()
                figures.count(crowd)
                self.acked += figures.acked
                ledger.flush()
                figures.stored = await verdict.all_stored(self.site, crowd.rooms, figures.sent)
                await verdict.audited(self.site, self.ledger_path, self.acked)
                assert figures.stored == figures.acked == figures.sent, str(figures)
                await verdict.in_order(self.site, crowd.rooms, crowd.senders)
                await verdict.all_heard(crowd.listeners, crowd.heads)
        assert not (dead := self.site.ended()), f"ended by themselves: {dead}"
        figures.took_s = _now() - begin
        return figures

    async def _break(self, plan: Plan) -> list[str]:
        """What was done to whom, and when."""
        begin = _now()

        async def run(fault: PlannedFault) -> str:
            await asyncio.sleep(fault.at_s)
            started = _now() - begin
            target = await KINDS[fault.kind](self.site, Random(fault.seed), self.lengths)
            return f"{fault.kind} [{target}] {started:.1f}-{_now() - begin:.1f} s"

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run(fault)) for fault in plan.faults]
        return [each.result() for each in running]


def _now() -> float:
    return asyncio.get_running_loop().time()
