"""The OpenAPI document: it is current, it is all there is, and the gateway does as it says."""

import json
from pathlib import Path

import jsonschema
import pytest
from anyio import to_thread
from hypothesis import settings

from deployments import app
from deployments.api.openapi import document, written
from tests.deployments.openapi_fuzz import fuzz
from tests.stack import Stack

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.anyio


def test_the_document_in_docs_is_the_present_one() -> None:
    """`raygate openapi -o docs/openapi.json` was run after the last change."""
    assert (ROOT / "docs" / "openapi.json").read_text() == written()


def test_every_route_is_in_it_and_nothing_else() -> None:
    """A route without a description, or a description without a route, is found here."""
    routed = {
        *app._ENDPOINTS,
        ("POST", "/v1/prompts/{template_id}/execute"),
        *((method, app._ADMIN + path) for method, path, _ in app._ADMIN_CALLS),
    }
    told = {
        (method.upper(), path) for path, calls in document()["paths"].items() for method in calls
    }
    assert told == routed


def test_every_schema_in_it_is_one() -> None:
    """Each is a JSON schema of draft 2020-12, and each reference leads somewhere."""
    made = document()
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(made)
    for kind in ("schemas", "responses"):
        for rest in text.split(f"#/components/{kind}/")[1:]:
            assert rest.partition('"')[0] in made["components"][kind]


async def test_it_is_served_to_anybody_with_a_key(stack: Stack) -> None:
    """The same document; without a key a 401."""
    viewer = await stack.key(role="viewer")
    status, found, headers = await stack.call("GET", "/openapi.json", key=viewer)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert found == document()
    status, found, _ = await stack.call("GET", "/openapi.json", key="rg-nobody")
    assert (status, found["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("role", ["admin", "user", "viewer", None])
async def test_no_500_and_nothing_that_is_not_documented(stack: Stack, role: str | None) -> None:
    """Requests of every shape, as the document allows and as it does not, with every key."""
    key = None if role is None else await stack.key(role=role)
    made = {"variants": [{"id": "a", "weight": 1}]}
    await stack.call("POST", "/admin/v1/experiments/business_analysis_v1", made, stack.admin)
    await stack.chat("a trace", x_request_id="fuzz")
    most = max(6, settings.default.max_examples // 25)
    # Of those without the right to, the replies differ little.
    examples = most if role == "admin" else most // 3
    counts = await to_thread.run_sync(fuzz, stack.url, stack.admin, key, examples)
    assert sum(counts.values()) > examples * len(app._ADMIN_CALLS)
