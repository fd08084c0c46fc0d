"""`GET /openapi.json`: every endpoint, spelled out from openapi.yaml and schemas.yaml."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from actors.errors import RaygateError
from deployments.api.auth import authenticate
from deployments.api.http import JSON, Scope, Send, headers_of, send_bytes, send_error
from deployments.services import Services

Json = dict[str, Any]

_ADMIN_ERRORS = (400, 401, 403, 404, 413, 503)
_KEYS: dict[str, list[Json]] = {
    "none": [{}],
    "optional": [{}, {"bearer": []}, {"header": []}],
    "any": [{"bearer": []}, {"header": []}],
}
_SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


async def openapi(services: Services, scope: Scope, receive: Any, send: Send) -> None:
    """This gateway's OpenAPI document, for anybody with a key."""
    try:
        await authenticate(services, headers_of(scope))
    except RaygateError as error:
        await send_error(send, error)
        return
    await send_bytes(send, 200, [JSON], written().encode())


@cache
def written() -> str:
    """The document as it is served and kept in docs/."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def document() -> Json:
    """The OpenAPI 3.1 document."""
    folder = Path(__file__).parent
    told = yaml.safe_load((folder / "openapi.yaml").read_text("utf-8"))
    schemas = yaml.safe_load((folder / "schemas.yaml").read_text("utf-8"))
    paths: Json = {}
    for call, operation in told["operations"].items():
        method, path = call.split()
        paths.setdefault(path, {})[method.lower()] = _operation(told, call, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Raygate", "version": "1", "description": told["summary"]},
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY,
            "responses": {
                f"E{status}": _answer(meaning, "Error")
                for status, meaning in told["statuses"].items()
            },
            "schemas": {name: _schema(schema) for name, schema in schemas.items()},
        },
    }


def _operation(told: Json, call: str, operation: Json) -> Json:
    path = call.split()[1]
    admin = path.startswith("/admin/")
    errors = {*operation.get("errors", ()), *(_ADMIN_ERRORS if admin else ())}
    made: Json = {
        "operationId": re.sub(r"\W+", "_", call.replace("/admin/v1", "").strip("}")).lower(),
        "summary": operation["says"],
        "tags": ["admin" if admin else "gateway"],
        "security": _KEYS.get(operation.get("key", "any"), _KEYS["any"]),
        "parameters": _parameters(told, path, operation),
        "responses": {"200": _good(told, operation)}
        | {str(each): {"$ref": f"#/components/responses/E{each}"} for each in sorted(errors)},
    }
    if "unready" in operation:
        made["responses"]["503"] = _answer("Not yet.", operation["unready"])
    if "body" in operation:
        made["requestBody"] = {"required": True, "content": _json(operation["body"])}
    return made


def _parameters(told: Json, path: str, operation: Json) -> list[Json]:
    names = [word[1:-1] for word in path.split("/") if word.startswith("{")]
    found = [_parameter("path", name, told["parameters"][name]) for name in names]
    found += [_parameter("query", n, told["parameters"][n]) for n in operation.get("query", ())]
    if operation.get("headers"):
        found += [_parameter("header", name, told["headers"][name]) for name in told["headers"]]
    return found


def _parameter(place: str, name: str, schema: Json) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _good(told: Json, operation: Json) -> Json:
    if operation["ok"] == "text":
        return {
            "description": operation["says"],
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    answer = _answer(operation["says"], operation["ok"])
    if operation.get("events"):
        # With `stream: true` in the body.
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return answer


def _answer(description: str, schema: Any) -> Json:
    return {"description": description, "content": _json(schema)}


def _json(schema: Any) -> Json:
    return {"application/json": {"schema": _schema(schema)}}


def _schema(short: Any) -> Any:
    """A schema spelled out: see the first lines of schemas.yaml."""
    if isinstance(short, str):
        return _named(short)
    if isinstance(short, list):
        return {"type": "array", "items": _schema(short[0])}
    if "$page" in short:
        fields = {"data": [short["$page"]]} | (
            {"cursor": "string or null"} if "cursor" in short else {}
        )
        return _schema({"fields": fields})
    if "fields" in short:
        return {
            "type": "object",
            "properties": {name: _schema(field) for name, field in short["fields"].items()},
            "required": [*short["fields"]],
            "additionalProperties": False,
        }
    return _resolved(short)


def _named(word: str) -> Json:
    if word[0].isupper():
        return {"$ref": f"#/components/schemas/{word}"}
    kinds = word.split(" or ")
    return {"type": kinds if len(kinds) > 1 else word}


def _resolved(part: Any) -> Any:
    """JSON schema as it stands, but for short references."""
    if isinstance(part, dict):
        if "$ref" in part:
            return _named(part["$ref"])
        return {name: _resolved(one) for name, one in part.items()}
    return [_resolved(one) for one in part] if isinstance(part, list) else part
