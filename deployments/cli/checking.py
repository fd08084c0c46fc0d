"""Checks a configuration before it is deployed: every error, each with its path."""

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError

from actors.errors import InvalidRequest
from deployments.cli.configuration import GATEWAY, SIMULATED, AppPlan, Plan
from deployments.cli.explain import explain, unknown_field
from deployments.config import Policy, parse_policy
from deployments.structure import GatewayArgs


def check(raw: Mapping[str, Any]) -> tuple[list[str], Plan | None]:
    """Every error, each with its path; and what can be deployed where there is none."""
    from ray.serve.schema import ServeDeploySchema

    try:
        whole = ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        return explain(error, "", ServeDeploySchema), None
    errors = _unknown_fields(raw)
    plans = [
        _plan_app(app.name, fields, errors)
        for app, fields in zip(whole.applications, raw["applications"], strict=True)
    ]
    gateways = [plan for plan in plans if plan is not None and plan.import_path == GATEWAY]
    if len(gateways) != 1 and None not in plans:
        errors.append(f"applications: exactly one must have the import_path {GATEWAY}")
    policies = [_check_gateway(plan, errors) for plan in gateways]
    if gateways and gateways[0].args is not None:
        _check_embedded(plans, gateways[0].args, errors)
    if errors:
        return errors, None
    assert policies[0] is not None
    options = raw.get("controller_options") or {}
    return [], Plan(
        apps=tuple(plan for plan in plans if plan is not None),
        gateway_app=gateways[0].name,
        args=gateways[0].args,
        policy=policies[0],
        http_options=dict(raw.get("http_options") or {}),
        proxy_location=raw.get("proxy_location"),
        controller_env=(options.get("runtime_env") or {}).get("env_vars") or {},
    )


def _unknown_fields(raw: Mapping[str, Any]) -> list[str]:
    """Fields that Serve itself would pass over in silence."""
    from ray.serve import schema

    parts: list[tuple[str, Any, type[BaseModel]]] = [
        ("", raw, schema.ServeDeploySchema),
        ("http_options", raw.get("http_options"), schema.HTTPOptionsSchema),
    ]
    for app in raw["applications"]:
        root = f"applications[{app.get('name')}]"
        parts.append((root, app, schema.ServeApplicationSchema))
        for each in app.get("deployments") or []:
            parts.append((f"{root}.deployments[{each['name']}]", each, schema.DeploymentSchema))
    return [
        f"{path}{'.' if path else ''}{key}: {unknown_field(str(key), model)}"
        for path, part, model in parts
        for key in sorted((part or {}).keys() - model.model_fields.keys())
    ]


def _plan_app(name: str, fields: Mapping[str, Any], errors: list[str]) -> AppPlan | None:
    root, import_path = f"applications[{name}]", fields["import_path"]
    module, _, attribute = import_path.replace(":", ".").rpartition(".")
    try:
        builder = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        errors.append(f"{root}.import_path: {import_path} can't be imported ({error})")
        return None
    args = _check_args(builder, fields.get("args") or {}, f"{root}.args", errors)
    options = {
        str(each["name"]): {key: value for key, value in each.items() if key != "name"}
        for each in fields.get("deployments") or []
    }
    env_vars = (fields.get("runtime_env") or {}).get("env_vars") or {}
    prefix = fields.get("route_prefix", "/")
    return AppPlan(name, import_path, prefix, builder, args, options, env_vars)


def _check_args(builder: Any, args: Any, root: str, errors: list[str]) -> Any:
    """The arguments as the builder's one annotated parameter wants them."""
    if not inspect.isfunction(builder):
        return args
    hints = get_type_hints(builder)
    models = [hints[name] for name in inspect.signature(builder).parameters if name in hints]
    if not models or not (inspect.isclass(models[0]) and issubclass(models[0], BaseModel)):
        return args
    try:
        return models[0].model_validate(args)
    except ValidationError as error:
        errors += explain(error, root, models[0])
        return None


def _check_gateway(plan: AppPlan, errors: list[str]) -> Policy | None:
    root = f"applications[{plan.name}].deployments"
    for name in sorted(plan.options.keys() - {"Gateway"}):
        errors.append(f"{root}[{name}]: there is no such deployment. Allowed: Gateway")
    path = f"{root}[Gateway].user_config"
    raw = plan.options.get("Gateway", {}).get("user_config")
    if raw is None:
        errors.append(f"{path}: is missing; a policy with at least one model belongs there")
        return None
    return check_policy(raw, plan.args, path, errors)


def check_policy(raw: Any, args: GatewayArgs | None, path: str, errors: list[str]) -> Policy | None:
    """The policy, or None after adding what is wrong with it to `errors`."""
    # Its price table is a second's work to read: not for commands that need none.
    from deployments.policy import PolicyInForce

    try:
        policy = Policy.model_validate(raw)
    except ValidationError as error:
        errors += explain(error, path, Policy)
        return None
    if args is None:
        return policy
    try:
        parse_policy(raw, tuple(each.name for each in args.providers))
        PolicyInForce(policy, {each.name: each.prices for each in args.providers})
    except InvalidRequest as error:
        lines = re.split("; (?=user_config)", error.message)
        errors += [line.replace("user_config", path, 1) for line in lines]
        return None
    except Exception as error:
        errors.append(f"{path}: {error}")
        return None
    return policy


def _check_embedded(apps: list[AppPlan | None], args: GatewayArgs, errors: list[str]) -> None:
    """An embedded provider and its gateway know each other's key by the gateway's name."""
    if not any(each.kind == "simulated" for each in args.providers):
        return
    for app in apps:
        if app is None or app.import_path != SIMULATED or app.args is None:
            continue
        if app.args.name != args.name:
            errors.append(
                f"applications[{app.name}].args.name: must be the gateway's own name, "
                f"{args.name} (found {app.args.name!r})"
            )
