"""The OpenAPI document against the API that it describes: every path, parameter, default, limit and field."""

import re

import pytest

from chatflow import __version__
from tests.api_harness import open_api

TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
    "null": type(None),
}  # fmt: skip
PATHS = {
    "/api/health", "/api/metrics", "/api/messages/room", "/api/messages/user", "/api/users/active", "/api/users/rooms",
    "/api/analytics/throughput", "/api/analytics/top-users", "/api/analytics/top-rooms", "/api/analytics/patterns",
    "/api/all", "/health", "/metrics", "/config.json",
}  # fmt: skip


@pytest.fixture
async def api():
    async with open_api() as opened:
        for n in range(3):
            opened.store.add("1", user_id=1 + n % 2)
        yield opened


@pytest.fixture
async def spec(api):
    return await api.body("/openapi.json")


def problems(value, schema, spec, at="$"):
    """What is wrong with a value under a schema, in the vocabulary that the document uses."""
    if "$ref" in schema:
        return problems(value, resolve(schema["$ref"], spec), spec, at)
    if "anyOf" in schema:
        found = [problems(value, option, spec, at) for option in schema["anyOf"]]
        return [] if [] in found else found[0]
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in problems(item, schema["items"], spec, f"{at}[{i}]")]
    if isinstance(value, dict):
        return object_problems(value, schema, spec, at)
    return []


def object_problems(value, schema, spec, at):
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    wrong = [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, member in value.items():
        described = known.get(name, rest)
        if described is None:
            wrong.append(f"{at}.{name} is not described")
        else:
            wrong += problems(member, described, spec, f"{at}.{name}")
    return wrong


def resolve(ref, spec):
    node = spec
    for step in ref.removeprefix("#/").split("/"):
        node = node[step]
    return node


def refs(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for child in node.values():
            yield from refs(child)
    elif isinstance(node, list):
        for child in node:
            yield from refs(child)


async def test_every_path_is_described_and_nothing_else(spec):
    assert set(spec["paths"]) == PATHS
    assert spec["openapi"].startswith("3.1")
    assert spec["info"]["version"] == __version__
    names = [item["get"]["operationId"] for item in spec["paths"].values()]
    assert len(names) == len(set(names))


async def test_every_reference_leads_somewhere(spec):
    found = list(refs(spec))
    assert found
    assert all(resolve(ref, spec) for ref in found)


@pytest.mark.parametrize("path", sorted(PATHS - {"/metrics"}))
async def test_every_answer_is_as_described(api, spec, path):
    schema = spec["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    for suffix in ("?roomId=1", "?roomId=1&limit=1"):
        assert problems(await api.body(path + suffix), schema, spec) == []


async def test_the_checker_finds_what_is_wrong(api, spec):
    schema = spec["paths"]["/api/messages/room"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    body = await api.body("/api/messages/room?roomId=1")
    body["messages"][0]["seq"] = "1"
    body["extra"] = 1
    del body["roomId"]
    assert len(problems(body, schema, spec)) == 3


async def test_every_refusal_is_as_described(api, spec):
    for path, status in (
        ("/api/messages/room?roomId=1&limit=0", "400"),
        ("/api/messages/room?roomId=1&minSeq=99", "409"),
    ):
        got, body, _ = await api.get(path)
        assert str(got) == status
        response = spec["paths"]["/api/messages/room"]["get"]["responses"][status]
        described = resolve(response["$ref"], spec)
        assert problems(body, described["content"]["application/json"]["schema"], spec) == []


async def test_integer_parameters_have_the_limits_that_they_are_described_with(api, spec):
    tried = 0
    for path, item in spec["paths"].items():
        for parameter in item["get"]["parameters"]:
            schema = parameter["schema"]
            assert (parameter["in"], parameter["required"]) == ("query", parameter["name"] == "roomId")
            if schema["type"] == "integer" and parameter["name"] != "minSeq":
                low, high = schema["minimum"], schema["maximum"]
                asking = f"{path}?{'roomId=1&' if path.endswith('/room') else ''}{parameter['name']}="
                codes = [(await api.get(f"{asking}{n}"))[0] for n in (low - 1, low, high, high + 1)]
                assert codes == [400, 200, 200, 400]
                tried += 1
    assert tried == 8


async def test_defaults_are_what_an_answer_without_parameters_uses(api, spec):
    described = {
        p["name"]: p["schema"].get("default") for p in spec["paths"]["/api/messages/room"]["get"]["parameters"]
    }
    body = await api.body("/api/messages/room?roomId=1")
    assert (described["roomId"], body["limit"], described["limit"]) == (None, 100, 100)


async def test_fields_are_camel_case(spec):
    for name, schema in spec["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert re.fullmatch(r"[a-z][A-Za-z0-9]*(_[a-zA-Z]+)?", field), (name, field)
