import asyncio

import attrs


@attrs.define
class FakeClock:
    """Monotonic seconds that pass when told to, or when somebody sleeps on them."""

    now: float = 1_000.0
    slept: list[float] = attrs.field(factory=list)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
