"""The clients of one round: senders at half speed on all gateways, and listeners who must see everything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import IO, Self

import attrs

from tests.fault import verdict
from tests.fault.clients import LedgerSender, Listener
from tests.fault.site import Site

SENDERS = 12
ROOMS = 8
"""About one for each partition."""
HEARD_ROOMS = 3
RATE = 1_500.0
"""Messages a second of all senders together: about half of what they reach beside the fleet on two cores."""
WINDOW = 64
RESTLESS = 0.1
LOOK_S = 0.02


@attrs.define(eq=False)
class Crowd:
    """Clients in rooms that no other round uses.

    Attributes:
        longest_silence_s: without an ack of anybody, until `finish`.
    """

    rooms: list[str]
    senders: list[LedgerSender]
    listeners: list[Listener]
    longest_silence_s: float = attrs.field(default=0.0, init=False)
    _sending: "list[asyncio.Task[None]]" = attrs.field(factory=list, init=False)
    _watching: "asyncio.Task[None] | None" = attrs.field(default=None, init=False)

    @classmethod
    def drawn(cls, site: Site, seed: int, ledger: IO[str]) -> Self:
        """The crowd of the round of ``seed``, which decides how it behaves and names its rooms."""
        chance = Random(seed)
        rooms = [f"round-{seed}-{n}" for n in range(ROOMS)]
        senders = [
            LedgerSender(
                user,
                rooms,
                site.urls,
                ledger,
                WINDOW,
                seed=chance.randrange(2**32),
                pace=RATE / SENDERS,
                restless=RESTLESS,
            )
            for user in range(1, SENDERS + 1)
        ]
        turned = [site.urls[n:] + site.urls[:n] for n in range(len(site.urls))]
        listeners = [Listener(room, urls) for room in rooms[:HEARD_ROOMS] for urls in turned]
        return cls(rooms, senders, listeners)

    @property
    def heads(self) -> dict[str, int]:
        """What each room's last ``seq`` must be: the number of messages sent to it."""
        return {room: sum(sender.numbers.get(room, 0) for sender in self.senders) for room in self.rooms}

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run all clients; one that fails ends the round."""
        async with asyncio.TaskGroup() as tasks:
            self._sending = [tasks.create_task(sender.run()) for sender in self.senders]
            listening = [tasks.create_task(listener.run()) for listener in self.listeners]
            self._watching = tasks.create_task(self._watch())
            try:
                yield
            finally:
                for task in (*self._sending, *listening, self._watching):
                    task.cancel()

    async def finish(self) -> None:
        """Send nothing new, and wait for every ack."""
        if self._watching is not None:
            self._watching.cancel()
        for sender in self.senders:
            sender.stop()
        await verdict.all_acked(self.senders, self._sending)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            await asyncio.sleep(LOOK_S)
            latest = max(last, *(sender.acked_at for sender in self.senders))
            self.longest_silence_s = max(self.longest_silence_s, clock() - latest)
            last = latest
