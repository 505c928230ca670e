"""The OpenAPI 3.1 document, from the same types and parameters that serve."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from chatflow.adapters.aiohttp.endpoints import ENDPOINTS
from chatflow.adapters.aiohttp.everything import EverythingAnswer
from chatflow.adapters.aiohttp.fleet_answers import FleetHealth, FleetMetrics
from chatflow.adapters.aiohttp.pages import PageConfig
from chatflow.adapters.aiohttp.parameters import Parameter
from chatflow.adapters.aiohttp.schemas import Refused

_Object = dict[str, Any]


class HealthAnswer(Struct):
    """Of one process; a role may add members of its own."""

    status: str
    role: str
    dependencies: dict[str, str]


FLEET_ENDPOINTS: tuple[tuple[str, str, type[Struct]], ...] = (
    ("/api/health", "Whether reads are served, and by what; 503 when they cannot be", FleetHealth),
    ("/api/metrics", "Counts and rates of the whole fleet", FleetMetrics),
    ("/api/all", "One answer to every query, with the defaults of each, and the metrics", EverythingAnswer),
    ("/health", "This process, for load balancers: 503 when it cannot do its work", HealthAnswer),
    ("/config.json", "What the web page needs to know", PageConfig),
)

TOKEN_OR_NONE: list[_Object] = [{}, {"token": []}]
"""None in open mode."""

_REFUSALS = {
    304: "The answer that `If-None-Match` names is still right",
    400: "`invalid_parameter`: the reason names it",
    401: "`unauthorized`: a token is needed, or this one is refused; where tokens are asked for",
    403: "`forbidden`: the token does not allow it",
    404: "`not_found`",
    409: "`behind`: the room stayed behind `minSeq` for 500 ms",
    500: "`internal`",
    503: "`backpressure` or `unavailable`: try again after `Retry-After` seconds",
    504: "`query_timeout`",
}


def openapi_document(version: str) -> _Object:
    """The document as plain JSON values."""
    bodies: list[type[Struct]] = [endpoint.body for endpoint in ENDPOINTS]
    bodies += [body for _, _, body in FLEET_ENDPOINTS]
    refs, schemas = msgspec.json.schema_components([*bodies, Refused], ref_template="#/components/schemas/{name}")
    ref_of: dict[type[Struct], _Object] = dict(zip([*bodies, Refused], refs, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chatflow",
            "version": version,
            "description": "The read side: rooms, users and analytics. Times are ISO-8601 UTC; limits are inclusive. "
            "Unknown and repeated query parameters are refused on /api/. With CHATFLOW_AUTH=jwt every path of /api/ "
            "needs a token.",
        },
        "paths": _paths(ref_of),
        "components": {
            "schemas": schemas,
            "responses": _refusals(ref_of[Refused]),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _paths(ref_of: Mapping[type[Struct], _Object]) -> _Object:
    paths: _Object = {}
    for endpoint in ENDPOINTS:
        refusals = [*endpoint.refusals, 304, 400, 401, 403, 500, 503, 504]
        paths[endpoint.path] = _operation(
            endpoint.name, endpoint.summary, endpoint.parameters, ref_of[endpoint.body], refusals, cached=True
        )
    for path, summary, body in FLEET_ENDPOINTS:
        name = path.strip("/").replace("/", "_").replace(".json", "")
        refusals = [503, 504] if path == "/api/all" else []
        if path.startswith("/api/"):
            refusals += [400, 401, 403]
        paths[path] = _operation(name, summary, (), ref_of[body], [*refusals, 500], cached=path == "/api/all")
    paths["/metrics"] = _text_operation("metrics", "This process, for Prometheus")
    return paths


def _operation(
    name: str,
    summary: str,
    parameters: Sequence[Parameter[Any]],
    schema: _Object,
    refusals: Sequence[int],
    *,
    cached: bool,
) -> _Object:
    ok: _Object = {"description": "The answer", "content": {"application/json": {"schema": schema}}}
    if cached:
        tiers = {"type": "string", "enum": ["l1", "l2", "miss"]}
        ok["headers"] = {"X-Cache": {"description": "Which tier answered.", "schema": tiers}}
    if 304 in refusals:
        ok["headers"]["ETag"] = {"description": "For `If-None-Match`.", "schema": {"type": "string"}}
    responses: _Object = {"200": ok}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(refusals)}
    described = [_parameter(parameter) for parameter in parameters]
    operation = {"operationId": name, "summary": summary, "parameters": described, "responses": responses}
    return {"get": operation | ({"security": TOKEN_OR_NONE} if 401 in refusals else {})}


def _text_operation(name: str, summary: str) -> _Object:
    responses: _Object = {
        "200": {"description": "The answer", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in (401, 403)}
    operation = {"operationId": name, "summary": summary, "parameters": [], "responses": responses}
    return {"get": operation | {"security": TOKEN_OR_NONE}}


def _parameter(parameter: Parameter[Any]) -> _Object:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _refusals(schema: _Object) -> _Object:
    content = {"application/json": {"schema": schema}}
    retry = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {
        str(status): {
            "description": words,
            **({} if status == 304 else {"content": content}),
            **({"headers": retry} if status in {409, 503, 504} else {}),
        }
        for status, words in _REFUSALS.items()
    }
