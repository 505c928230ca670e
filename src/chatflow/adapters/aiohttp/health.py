"""``/health`` for load balancers and ``/metrics`` for Prometheus, the same on every role's port."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from chatflow.adapters.aiohttp.bearer import Bearers, ask_for_tokens, asked_later, check
from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.guard import guard
from chatflow.adapters.aiohttp.handlers import errors_as_json
from chatflow.domain.admission.rules import Admission, no_token
from chatflow.domain.permissions import may_read_metrics

SERVICE = "chatflow"
"""``service`` in the health of the gateway and of the fleet."""


@attrs.frozen
class HealthReport:
    """Whether a role can do its work, and the state of what it needs.

    Attributes:
        ok: it can; answered as 200, else as 503.
        dependencies: ``up``, ``down`` or ``off`` (not configured) for each.
        details: more members of the answer, such as the gateway's ``metrics``.
    """

    ok: bool
    dependencies: Mapping[str, str] = attrs.field(factory=dict)
    details: Mapping[str, Any] = attrs.field(factory=dict)


Health = Callable[[], Awaitable[HealthReport]]
"""Checks a role; returns within seconds and does not raise."""


def build_health(
    role: str,
    health: Health,
    registry: CollectorRegistry,
    admission: Admission | None = None,
    bearers: Bearers | None = None,
) -> web.Application:
    """An application with these two paths and no other; with ``bearers``, ``/metrics`` asks for a token."""
    app = web.Application()
    guard(app, admission or Admission(), no_token if bearers is None else asked_later)
    app.middlewares.append(errors_as_json)
    if bearers is not None:
        ask_for_tokens(app, bearers)
    add_health(app, role, health, registry)
    return app


def add_health(app: web.Application, role: str, health: Health, registry: CollectorRegistry) -> None:
    """Add the two paths to an application."""

    async def answer_health(_: web.Request) -> web.Response:
        report = await health()
        body = {
            "status": "ok" if report.ok else "unavailable",
            "role": role,
            "dependencies": dict(report.dependencies),
            **report.details,
        }
        return web.Response(
            body=msgspec.json.encode(body),
            status=200 if report.ok else 503,
            content_type=JSON,
            headers={"Cache-Control": "no-store"},
        )

    async def answer_metrics(request: web.Request) -> web.Response:
        check(request, may_read_metrics)
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/health", answer_health)
    app.router.add_get("/metrics", answer_metrics)
