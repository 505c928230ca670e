"""The role ``api`` as one HTTP application: queries, fleet, health, documentation and pages."""

import time
from collections.abc import Awaitable, Callable

import attrs
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from chatflow import __version__
from chatflow.adapters.aiohttp.bearer import Bearers, ask_for_tokens, asked_later, check, principal_of
from chatflow.adapters.aiohttp.compat import Reply, respond
from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.everything import answer_everything, encode_everything, source_of
from chatflow.adapters.aiohttp.fleet_view import FleetView
from chatflow.adapters.aiohttp.guard import guard
from chatflow.adapters.aiohttp.handlers import add_endpoints, answer, errors_as_json
from chatflow.adapters.aiohttp.health import Health, add_health
from chatflow.adapters.aiohttp.openapi import openapi_document
from chatflow.adapters.aiohttp.pages import GatewayAddress, PageLimits, add_pages
from chatflow.adapters.aiohttp.parameters import check_names
from chatflow.domain.admission.rules import Admission, no_token
from chatflow.domain.permissions import may_read_all, may_read_metrics
from chatflow.domain.reading.query_service import QueryService
from chatflow.domain.resilience.ttl_memo import TtlMemo
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.fleet import Fleet, RoleSnapshot

_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def build_api(
    queries: QueryService,
    *,
    fleet: Fleet,
    own: Callable[[], RoleSnapshot],
    health: Health,
    registry: CollectorRegistry,
    gateway: GatewayAddress | None = None,
    limits: PageLimits | None = None,
    admission: Admission | None = None,
    bearers: Bearers | None = None,
    fleet_fresh_s: float = 0.0,
) -> web.Application:
    """Assemble the application.

    Args:
        queries: its cache is closed by the caller.
        fleet: the snapshots of the other processes.
        own: this process's snapshot now, which the fleet may not have yet.
        health: of this process.
        registry: for ``/metrics``.
        gateway: where the page's WebSocket goes.
        limits: what the page checks.
        admission: who may ask.
        bearers: reads the tokens of requests; ``None``: nobody has to prove who they are.
        fleet_fresh_s: seconds for which an answer about the fleet is reused.
    """
    app = web.Application()
    guard(app, admission or Admission(), no_token if bearers is None else asked_later)
    app.middlewares.append(errors_as_json)
    if bearers is not None:
        ask_for_tokens(app, bearers)
    add_endpoints(app, queries)
    _FleetRoutes(queries, fleet, own, health, fleet_fresh_s).add_to(app)
    add_health(app, "api", health, registry)
    _add_description(app)
    add_pages(app, gateway or GatewayAddress(), limits or PageLimits())
    return app


@attrs.define(eq=False)
class _FleetRoutes:
    """What is answered from the snapshots of all processes. ``fresh_s``: seconds for which such an answer is reused."""

    queries: QueryService
    fleet: Fleet
    own: Callable[[], RoleSnapshot]
    health: Health
    fresh_s: float
    _healths: TtlMemo[tuple[bytes, int]] = attrs.field(init=False)
    _metrics: TtlMemo[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._healths = TtlMemo(self._encode_health, time.monotonic, self.fresh_s)
        self._metrics = TtlMemo(self._encode_metrics, time.monotonic, self.fresh_s)

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/health", self.answer_health)
        app.router.add_get("/api/metrics", self.answer_metrics)
        app.router.add_get("/api/all", self.answer_all)

    async def answer_health(self, request: web.Request) -> web.StreamResponse:
        check_names(request.rel_url.query)
        check(request, may_read_metrics)
        body, status = await self._healths.get()
        if status != 200:
            return _json(body, status)
        return respond(request, _fresh(body), self._health_again if principal_of(request).is_open else None)

    async def answer_metrics(self, request: web.Request) -> web.StreamResponse:
        check_names(request.rel_url.query)
        check(request, may_read_metrics)
        again = self._metrics_again if principal_of(request).is_open else None
        return respond(request, _fresh(await self._metrics.get()), again)

    def _health_again(self) -> Reply | None:
        known = self._healths.peek()
        return None if known is None or known[1] != 200 else _fresh(known[0])

    def _metrics_again(self) -> Reply | None:
        known = self._metrics.peek()
        return None if known is None else _fresh(known)

    async def _encode_health(self) -> tuple[bytes, int]:
        report = await self.health()
        healthy = report.ok and "down" not in report.dependencies.values()
        body = (await self._view()).health(healthy=healthy)
        return msgspec.json.encode(body), 200 if report.ok else 503

    async def _encode_metrics(self) -> bytes:
        return msgspec.json.encode((await self._view()).metrics())

    async def answer_all(self, request: web.Request) -> web.Response:
        check_names(request.rel_url.query)
        check(request, may_read_all)
        everything = await answer_everything(self.queries)
        body = encode_everything("all", everything, (await self._view()).metrics())
        return answer(body, source_of(everything))

    async def _view(self) -> FleetView:
        """Each process's last snapshot and our own as of now; our own alone while the fleet is out of reach."""
        own = self.own()
        try:
            others = await self.fleet.snapshots()
        except CacheUnavailable:
            others = []
        return FleetView.of([*(other for other in others if other.instance != own.instance), own])


def _add_description(app: web.Application) -> None:
    document = msgspec.json.encode(openapi_document(__version__))
    app.router.add_get("/openapi.json", _constant(document))


def _constant(body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return _json(body)

    return handle


def _fresh(body: bytes) -> Reply:
    return Reply(200, {"Content-Type": JSON, **_NO_STORE}, (body,))


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=JSON, headers=_NO_STORE)
