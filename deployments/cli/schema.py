"""The JSON schema of a configuration, for editors."""

from typing import Any

from pydantic import BaseModel

from deployments.cli.configuration import GATEWAY, SIMULATED
from deployments.config import Policy
from deployments.structure import GatewayArgs


def schema() -> dict[str, Any]:
    """A whole `serve_config.yaml`: ours exactly, Serve's own fields by name."""
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    from deployments.providers.simulated import SimulatedArgs

    definitions: dict[str, Any] = {}

    def defined(model: type[BaseModel]) -> dict[str, Any]:
        made = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(made.pop("$defs", {}))
        definitions[model.__name__] = made
        return {"$ref": f"#/$defs/{model.__name__}"}

    deployment = _fields(DeploymentSchema, name={"type": "string"})
    gateway = _fields(DeploymentSchema, name={"const": "Gateway"}, user_config=defined(Policy))
    application = _fields(
        ServeApplicationSchema,
        name={"type": "string"},
        import_path={"type": "string"},
        deployments={"type": "array", "items": deployment},
    )
    whole = _fields(
        ServeDeploySchema,
        http_options=_fields(HTTPOptionsSchema, port={"type": "integer"}, host={"type": "string"}),
        applications={
            "type": "array",
            "items": {
                **application,
                "required": ["name", "import_path"],
                "allOf": [
                    _when(GATEWAY, defined(GatewayArgs), {"type": "array", "items": gateway}),
                    _when(SIMULATED, defined(SimulatedArgs), {"type": "array"}),
                ],
            },
        },
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Raygate on Ray Serve",
        **whole,
        "required": ["applications"],
        "$defs": dict(sorted(definitions.items())),
    }


def _fields(model: type[BaseModel], **known: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly the model's fields; those not in `known` may be anything."""
    properties = {name: known.get(name, {}) for name in model.model_fields}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _when(import_path: str, args: dict[str, Any], deployments: dict[str, Any]) -> dict[str, Any]:
    return {
        "if": {"properties": {"import_path": {"const": import_path}}},
        "then": {"properties": {"args": args, "deployments": deployments}},
    }
