"""What may go wrong in a simulation, as plain values: they print as Python, so a failure can be pasted and repeated."""

import random

import attrs

HEAL_AT_S = 6.0
"""Until then things go wrong; from then on everything must come right by itself."""


@attrs.frozen
class Weather:
    """How often an operation meets a fault, in per mille.

    Attributes:
        publish_lost: the envelope never arrives, and no confirm.
        publish_late: it arrives after the publisher has given up, perhaps after later ones.
        confirm_lost: it arrives, the confirm does not.
        confirm_doubled: the confirm comes twice.
        ack_lost: a consumer's ack breaks its stream instead.
        live_lost, live_doubled, live_late, live_refused: of an envelope on the live channel, for each gateway.
        write_failed: a transaction fails and is rolled back.
        outcome_lost: it is committed, the caller hears of a failure.
        hung_up: the caller hears of a failure while the transaction goes on by itself.
        read_failed: a read or a dead letter fails.
    """

    publish_lost: int = 0
    publish_late: int = 0
    confirm_lost: int = 0
    confirm_doubled: int = 0
    ack_lost: int = 0
    live_lost: int = 0
    live_doubled: int = 0
    live_late: int = 0
    live_refused: int = 0
    write_failed: int = 0
    outcome_lost: int = 0
    hung_up: int = 0
    read_failed: int = 0


@attrs.frozen
class Event:
    """Something that happens once.

    Attributes:
        kind: a key of `world.EVENTS`.
        target: which gateway, processor, partition or client, modulo how many there are.
        steps: a kill strikes after so many callbacks of its process: at any of its awaits.
        length_ms: until the process is started again or continued, the server is back, the client reads on, or the
            deposed consumer is told.
    """

    kind: str
    at_ms: int
    target: int = 0
    steps: int = 0
    length_ms: int = 0


@attrs.frozen
class Sizes:
    """Limits of the services under test, small enough to be met."""

    envelope_messages: int = 4
    accept_bytes: int = 1_500
    queue_bytes: int = 6_000
    prefetch: int = 3
    buffer_messages: int = 8
    batch: int = 3
    inflight: int = 6
    outbound_bytes: int = 8_192
    replay: int = 1_000
    live_queue: int = 16
    confirm_timeout_ms: int = 400


@attrs.frozen
class ClientPlan:
    """One client.

    Attributes:
        protocol: ``ws`` or ``chat``.
        is_patient: after a refusal it waits for all answers of the room, pauses, and repeats in order. One that is not
            repeats each refused message at once and sends new ones meanwhile.
        has_ids: it gives its messages ids of its own. One that does not repeats them as new ones; it must be patient.
        lags: its application handles a frame some time after its library has read it, and answered pings behind it.
        rooms: where it writes, and, on ``/ws``, reads.
        messages: how many it writes, over all of its rooms.
        window: how many may be unanswered per room.
        reads, from_start: whether it joins its rooms, and whether it asks for their past.
        wants_stored: every how-manieth send asks to hear of the commit; 0: none.
        poison: every how-manieth message cannot be stored; 0: none.
    """

    protocol: str = "ws"
    is_patient: bool = True
    has_ids: bool = True
    lags: bool = False
    rooms: tuple[int, ...] = (0,)
    messages: int = 6
    window: int = 4
    reads: bool = True
    from_start: bool = False
    wants_stored: int = 0
    poison: int = 0


@attrs.frozen
class Scenario:
    """All that decides a run; ``seed`` decides latencies, and which operation meets a fault."""

    seed: int
    gateways: int = 2
    processors: int = 2
    partitions: int = 2
    clients: tuple[ClientPlan, ...] = (ClientPlan(),)
    weather: Weather = Weather()
    events: tuple[Event, ...] = ()
    sizes: Sizes = Sizes()


KINDS = (
    "kill_gateway",
    "kill_gateway",
    "kill_processor",
    "kill_processor",
    "kill_processor",
    "stop_gateway",
    "stop_processor",
    "drain_gateway",
    "drain_processor",
    "depose",
    "depose",
    "broker_down",
    "store_down",
    "cut",
    "cut",
    "stall",
    "stall",
    "rejoin",
    "rejoin",
    "vanish",
)


def scenario_from(rng: random.Random) -> Scenario:
    """A scenario drawn from any source of randomness: a seeded one, or Hypothesis."""
    odds = lambda *choices: rng.choice(choices)
    weather = Weather(*(odds(0, 0, 30, 150) for _ in attrs.fields(Weather)))
    sizes = Sizes(
        envelope_messages=odds(1, 2, 4, 100),
        accept_bytes=odds(900, 1_500, 50_000),
        queue_bytes=odds(1_500, 6_000, 100_000),
        prefetch=odds(1, 3, 10),
        buffer_messages=odds(1, 4, 8, 100),
        batch=odds(1, 3, 100),
        inflight=odds(2, 6, 100),
        outbound_bytes=odds(1_500, 8_192, 100_000),
        replay=odds(3, 1_000, 1_000),
        live_queue=odds(1, 3, 100),
        confirm_timeout_ms=odds(400, 400, 2_500),
    )
    return Scenario(
        rng.randint(0, 2**32),
        gateways=odds(1, 2, 2),
        processors=odds(1, 2, 2, 3),
        partitions=odds(1, 2, 3),
        clients=tuple(_client_from(rng) for _ in range(rng.randint(1, 4))),
        weather=weather,
        events=tuple(_event_from(rng) for _ in range(rng.randint(0, 8))),
        sizes=sizes,
    )


def _client_from(rng: random.Random) -> ClientPlan:
    odds = lambda *choices: rng.choice(choices)
    protocol = odds("ws", "ws", "ws", "chat")
    poison = odds(0, 0, 0, 4)
    is_patient, has_ids = odds((True, True), (True, True), (False, True), (True, False))
    rooms = odds((0,), (0,), (1,), (0, 1)) if protocol == "ws" else odds((0,), (1,))
    return ClientPlan(
        protocol,
        is_patient,
        has_ids,
        has_ids and odds(False, True),
        rooms,
        rng.randint(0, 12),
        odds(1, 3, 6),
        reads=protocol == "ws" and odds(True, True, True, False),
        from_start=odds(False, True),
        wants_stored=0 if poison or protocol == "chat" else odds(0, 0, 1, 3),
        poison=poison,
    )


def _event_from(rng: random.Random) -> Event:
    return Event(
        rng.choice(KINDS),
        at_ms=rng.randint(0, 4_500),
        target=rng.randint(0, 3),
        steps=rng.randint(0, 120),
        length_ms=rng.choice((20, 200, 1_000, 3_000)),
    )


@attrs.define(eq=False)
class Dice:
    """One party's luck: independent of how often others throw, so that no accident of set order changes a run."""

    rng: random.Random
    may_fail: bool = True

    def meets(self, per_mille: int) -> bool:
        """Whether this operation meets a fault; never once the world has healed."""
        return self.rng.random() * 1_000 < per_mille and self.may_fail

    def latency(self) -> float:
        """Seconds: mostly below 3 ms, sometimes 40, rarely 300."""
        kind = self.rng.random()
        scale = 0.003 if kind < 0.85 else 0.04 if kind < 0.98 or not self.may_fail else 0.3
        return 0.0001 + scale * self.rng.random()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()
