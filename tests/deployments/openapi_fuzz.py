"""Requests made up from the OpenAPI document, and what their replies must be."""

from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from deployments.api.openapi import document

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Documented, and nothing broken: these say whose fault it is.
_NO_FAULT_OF_OURS = frozenset({502, 503, 504})
_THERE_IS = {
    ("", "template_id"): "business_analysis_v1",
    ("", "id"): "business_analysis_v1",
    ("", "name"): "fuzz",
    ("", "label"): "production",
    ("", "what"): "control",
    ("/admin/v1/providers/{name}/{what}", "name"): "simulated",
    ("/admin/v1/traces/{id}", "id"): "fuzz",
}
_CONTROL = "/admin/v1/providers/simulated/control"


def fuzz(url: str, admin: str, key: str | None, examples: int) -> Counter[tuple[str, int]]:
    """Try every operation with this key; how often each status came, by operation.

    examples: of each operation, as the document allows; and as it does not.
    Fails on the first reply that is a 500, not documented, or not as documented.
    """
    schema = schemathesis.openapi.from_dict(document())
    counts: Counter[tuple[str, int]] = Counter()
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    number = 0
    with requests.Session() as session:
        # What there is goes last.
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation in sorted(operations, key=lambda each: each.method == "delete"):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                number += 1
                _try(operation, mode, url, headers, session, examples, number, counts)
            # Knobs that were turned would decide what comes of all later calls.
            session.delete(url + _CONTROL, headers={"authorization": f"Bearer {admin}"})
    return counts


def _try(
    operation: Any,
    mode: GenerationMode,
    url: str,
    headers: dict[str, str],
    session: requests.Session,
    examples: int,
    number: int,
    counts: Counter[tuple[str, int]],
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode), steered=st.booleans())
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case: Any, steered: bool) -> None:
        if steered:
            _steer(case)
        _answer(case, operation, url, headers, session, counts)

    if settings.default.derandomize:
        one = seed(number)(one)
    try:
        one()
    except Unsatisfiable:
        # Nothing that could be wrong: there is no body and no parameter.
        pass
    except Exception as error:
        raise AssertionError(f"{operation.label}, {mode}: {error}") from error


def _steer(case: Any) -> None:
    """Name what there is, so that more than the first check is met."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = _THERE_IS.get((case.path, name), _THERE_IS["", name])
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "gpt-4o-mini"
    if isinstance(case.body, dict) and "target" in case.body:
        case.body["target"] = "simulated/gpt-4o"


def _answer(
    case: Any,
    operation: Any,
    url: str,
    headers: dict[str, str],
    session: requests.Session,
    counts: Counter[tuple[str, int]],
) -> None:
    response = case.call(base_url=url, headers=headers, session=session, timeout=60)
    counts[operation.label, response.status_code] += 1
    more = [] if response.status_code in _NO_FAULT_OF_OURS else [not_a_server_error]
    case.validate_response(response, checks=[*CHECKS, *more])
