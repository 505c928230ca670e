"""One run: gateways, processors, a broker, a store and clients on one loop, faults until `HEAL_AT_S`, then quiet.

`simulate` repeats a run exactly from its scenario. It raises `Broken` when a promise was broken on the way, when the
world does not come to rest after healing, or when what is left at the end does not add up.
"""

import random
from collections.abc import Callable
from typing import TypeVar

import attrs

from tests.simulation.broker import BrokerServer
from tests.simulation.client import Client
from tests.simulation.faults import HEAL_AT_S, Dice, Event, Scenario
from tests.simulation.loop import SimulationLoop
from tests.simulation.roles import Gateway, Processor, Site
from tests.simulation.store import StoreServer
from tests.simulation.sums import final_findings
from tests.simulation.verdict import Verdict
from tests.simulation.wire import Connection

TURN_S = 0.25
REST_BY_S = HEAL_AT_S + 120.0
"""Virtual time by which everything must have come to rest."""

RoleT = TypeVar("RoleT", Gateway, Processor)


class Broken(AssertionError):
    """A promise was broken; the text says which, when, and how to repeat it."""


@attrs.frozen
class Outcome:
    """What a run that kept all promises did.

    Attributes:
        digest: equal for equal schedules.
        steps: callbacks that ran.
        ended_s: virtual time of rest.
    """

    digest: int
    steps: int
    ended_s: float
    stored: int
    dead: int
    acked: int


@attrs.define(eq=False)
class World:
    """Everything there is."""

    scenario: Scenario
    loop: SimulationLoop = attrs.field(init=False)
    verdict: Verdict = attrs.field(init=False)
    broker: BrokerServer = attrs.field(init=False)
    store: StoreServer = attrs.field(init=False)
    site: Site = attrs.field(init=False)
    gateways: list[Gateway] = attrs.field(factory=list)
    processors: list[Processor] = attrs.field(factory=list)
    clients: list[Client] = attrs.field(factory=list)
    _dice: list[Dice] = attrs.field(factory=list)
    _born: int = 0

    def __attrs_post_init__(self) -> None:
        scenario = self.scenario
        self.loop = loop = SimulationLoop(scenario.seed)
        self.verdict = Verdict(loop)
        self.broker = BrokerServer(loop, scenario, self.verdict, self.dice("broker"))
        self.store = self.verdict.store = StoreServer(loop, scenario, self.verdict, self.dice("store"))
        self.site = Site(loop, scenario, self.verdict, self.broker, self.store)
        loop.after(0.0, self._begin)
        for number, event in enumerate(scenario.events):
            loop.after(event.at_ms / 1_000, EVENTS[event.kind], self, event, self.dice(f"event{number}"))
        loop.after(HEAL_AT_S, self._heal)

    def dice(self, name: str) -> Dice:
        dice = Dice(random.Random(f"{self.scenario.seed}/{name}"), may_fail=self.loop.time() < HEAL_AT_S)
        self._dice.append(dice)
        return dice

    @property
    def is_at_rest(self) -> bool:
        """Every client is content, and nothing is queued, held or under way."""
        return (
            all(client.is_content for client in self.clients)
            and self.broker.is_quiet
            and self.store.active == 0
            and all(role.is_quiet for role in (*self.gateways, *self.processors) if role.process.is_alive)
        )

    def run(self) -> Outcome:
        """Until all is at rest.

        Raises:
            Broken: a promise was broken.
        """
        loop = self.loop
        while not self.verdict.findings and not (loop.time() > HEAL_AT_S and self.is_at_rest):
            if loop.time() > REST_BY_S:
                self.verdict.wrong(f"no rest: {self._unrest()}")
                break
            loop.run_until(loop.time() + TURN_S)
        self.verdict.findings += loop.unseen_errors()
        if not self.verdict.findings:
            self.verdict.findings += final_findings(self.store, self.clients)
        if self.verdict.findings:
            raise Broken(f"{self.verdict.findings[0]}\n  repeat with: simulate({self.scenario})")
        acked = sum(len(lane.acked) for client in self.clients for lane in client.lanes.values())
        return Outcome(loop.digest, loop.steps, loop.time(), len(self.store.by_key), len(self.store.dead), acked)

    def _begin(self) -> None:
        for _ in range(self.scenario.gateways):
            self.gateways.append(self._start(Gateway))
        for _ in range(self.scenario.processors):
            self.processors.append(self._start(Processor))
        for number, plan in enumerate(self.scenario.clients):
            client = Client(
                f"c{number}",
                number + 1,
                plan,
                self.loop,
                self.verdict,
                self.dice(f"client{number}"),
                self._connect,
                lambda room: len(self.store.rooms.get(room, ())),
                self.scenario.sizes.replay,
            )
            self.clients.append(client)
            client.start()

    def _start(self, role: type[RoleT]) -> RoleT:
        self._born += 1
        name = f"{role.__name__.lower()}{self._born}"
        process = self.loop.new_process(name)
        started = role(self.site, process, self.dice(name))
        process.on_death = lambda: self._died(started)
        return started

    def _connect(self, client: Client) -> Connection | None:
        up = [gateway for gateway in self.gateways if gateway.process.is_alive]
        if not up:
            return None
        gateway = client.dice.rng.choice(up)
        connection = Connection(
            self.loop,
            gateway.process,
            client,
            self.verdict,
            client.dice,
            gateway.broker.confirmed,
            self.scenario.sizes.outbound_bytes,
        )
        gateway.serve(connection, client.plan.protocol, f"r{client.plan.rooms[0]}")
        return connection

    def _died(self, role: Gateway | Processor) -> None:
        """The kernel closes what a killed process had open."""
        self.broker.lost(role.process, self.dice(f"death of {role.process.name}").latency())
        if isinstance(role, Gateway):
            for connection in role.connections:
                connection.cut()

    def _heal(self) -> None:
        for dice in self._dice:
            dice.may_fail = False
        self.broker.come_back()
        self.store.is_down = False
        for role in (*self.gateways, *self.processors):
            role.process.fuse = None
            self.loop.continue_process(role.process)
            self._replace(role)
        for client in self.clients:
            if client.connection is not None:
                client.connection.read_on()

    def _replace(self, role: Gateway | Processor) -> None:
        """Start another one where this one is dead and has no successor yet."""
        for roles in (self.gateways, self.processors):
            if role in roles and not role.process.is_alive:
                roles[roles.index(role)] = self._start(type(role))

    def _unrest(self) -> str:
        unhappy = [
            (client.name, [(lane.room, lane.pending, lane.unanswered) for lane in client.lanes.values()], client.seats)
            for client in self.clients
            if not client.is_content
        ]
        queued = [queue.size_bytes for queue in self.broker.queues]
        held = [role.process.name for role in (*self.gateways, *self.processors) if not role.is_quiet]
        return f"clients {unhappy}, queued bytes {queued}, not settled: {held}, transactions {self.store.active}"


def simulate(scenario: Scenario) -> Outcome:
    """Run it.

    Raises:
        Broken: a promise was broken.
    """
    world = World(scenario)
    try:
        return world.run()
    finally:
        world.loop.dispose()


def _kill(roles: Callable[[World], list[RoleT]]) -> Callable[[World, Event, Dice], None]:
    def strike(world: World, event: Event, dice: Dice) -> None:
        role = roles(world)[event.target % len(roles(world))]
        role.process.fuse = event.steps
        world.loop.after(event.length_ms / 1_000, world._replace, role)

    return strike


def _stop(roles: Callable[[World], list[RoleT]]) -> Callable[[World, Event, Dice], None]:
    """SIGSTOP; the broker may give it up meanwhile."""

    def strike(world: World, event: Event, dice: Dice) -> None:
        process = roles(world)[event.target % len(roles(world))].process
        world.loop.stop_process(process)
        world.loop.after(event.length_ms / 1_000, world.loop.continue_process, process)
        if dice.meets(500):
            for queue in world.broker.queues:
                for consumer in queue.consumers:
                    if consumer.process is process:
                        world.loop.after(dice.between(0.05, 1.0), world.broker.depose, consumer, dice.latency())

    return strike


def _drain(roles: Callable[[World], list[RoleT]]) -> Callable[[World, Event, Dice], None]:
    """SIGTERM; the process ends when it has settled what it took."""

    def strike(world: World, event: Event, dice: Dice) -> None:
        role = roles(world)[event.target % len(roles(world))]

        def ended(_: object) -> None:
            world.loop.kill(role.process)
            world.loop.after(event.length_ms / 1_000, world._replace, role)

        task = world.loop.spawn(role.process, role.drain())
        task.add_done_callback(ended, context=world.loop.world.context)

    return strike


def _depose(world: World, event: Event, dice: Dice) -> None:
    queue = world.broker.queues[event.target % len(world.broker.queues)]
    if queue.consumers:
        world.broker.depose(queue.consumers[0], event.length_ms / 1_000)


def _broker_down(world: World, event: Event, dice: Dice) -> None:
    world.broker.go_down()
    world.loop.after(event.length_ms / 1_000, world.broker.come_back)


def _store_down(world: World, event: Event, dice: Dice) -> None:
    world.store.is_down = True
    world.loop.after(event.length_ms / 1_000, setattr, world.store, "is_down", False)


def _client(act: Callable[[Client, float], None]) -> Callable[[World, Event, Dice], None]:
    def strike(world: World, event: Event, dice: Dice) -> None:
        act(world.clients[event.target % len(world.clients)], event.length_ms / 1_000)

    return strike


EVENTS: dict[str, Callable[[World, Event, Dice], None]] = {
    "kill_gateway": _kill(lambda world: world.gateways),
    "kill_processor": _kill(lambda world: world.processors),
    "stop_gateway": _stop(lambda world: world.gateways),
    "stop_processor": _stop(lambda world: world.processors),
    "drain_gateway": _drain(lambda world: world.gateways),
    "drain_processor": _drain(lambda world: world.processors),
    "depose": _depose,
    "broker_down": _broker_down,
    "store_down": _store_down,
    "cut": _client(lambda client, _: client.drop()),
    "stall": _client(lambda client, length_s: client.stall(length_s)),
    "rejoin": _client(lambda client, _: client.rejoin()),
    "vanish": _client(lambda client, _: client.vanish()),
}
