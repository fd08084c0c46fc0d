"""A Serve configuration as `up` and `config` use it: found, read, checked, ready to build."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ValidationError

import deployments
from actors.errors import InvalidRequest
from deployments.cli.explain import explain, unknown_field
from deployments.cli.terminal import Problem
from deployments.config import GatewayArgs, Policy, parse_policy

GATEWAY = "deployments.gateway:build"
SIMULATED = "deployments.providers.simulated:build"
DEFAULT_NAME = "serve_config.yaml"
_HERE = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class AppPlan:
    """One application. args: checked by the builder's own model; options: by deployment name."""

    name: str
    import_path: str
    route_prefix: str | None
    builder: Any
    args: Any
    options: Mapping[str, Mapping[str, Any]]
    env_vars: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration that can be deployed.

    gateway_app: the name of the gateway's application; args, policy: the gateway's.
    http_options, proxy_location, controller_env: Serve's own.
    """

    apps: tuple[AppPlan, ...]
    gateway_app: str
    args: GatewayArgs
    policy: Policy
    http_options: Mapping[str, Any]
    proxy_location: str | None
    controller_env: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the gateway's durable state is, on the node of its singletons."""
        return folder_of(self.args.storage_path, self.args.name)


def folder_of(storage_path: str, name: str) -> Path:
    """The folder of one gateway's durable state."""
    return Path(storage_path).expanduser().absolute() / name


def find(path: Path | None) -> Path:
    """The file that was named, or `serve_config.yaml` here or beside the project's packages."""
    if path is not None:
        candidates = [path]
    else:
        beside = Path(deployments.__file__).parent.parent
        candidates = [Path(DEFAULT_NAME), beside / DEFAULT_NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    if path is not None:
        raise Problem(f"There is no file {path}.")
    raise Problem(f"There is no {DEFAULT_NAME} here; name a file with --config.")


def read(path: Path, port: int | None = None) -> dict[str, Any]:
    """The YAML's content, moved to another HTTP port where one is given. Raises Problem."""
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Problem(f"{path} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem(f"{path} is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise Problem(f"{path} is not a Serve configuration: it holds no fields.")
    return raw if port is None else moved(raw, port)


def moved(raw: dict[str, Any], port: int) -> dict[str, Any]:
    """The same configuration on another port, the embedded provider's address included."""
    http = dict(raw.get("http_options") or {})
    old, http["port"] = http.get("port", 8000), port
    apps = [
        {**app, "args": _moved_args(app["args"], old, port)}
        if isinstance(app, dict) and isinstance(app.get("args"), dict)
        else app
        for app in raw.get("applications") or []
    ]
    return {**raw, "http_options": http, "applications": apps}


def _moved_args(args: dict[str, Any], old: int, new: int) -> dict[str, Any]:
    if not isinstance(args.get("providers"), list):
        return args
    providers = [
        {**each, "base_url": _moved_url(str(each["base_url"]), old, new)}
        if isinstance(each, dict) and each.get("kind") == "simulated" and "base_url" in each
        else each
        for each in args["providers"]
    ]
    return {**args, "providers": providers}


def _moved_url(url: str, old: int, new: int) -> str:
    parts = urlsplit(url)
    if parts.hostname not in _HERE or parts.port != old:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{new}"))


def with_storage(raw: dict[str, Any], storage_path: str) -> dict[str, Any]:
    """The same configuration with the gateway's storage path as given."""
    apps = [
        {**app, "args": {**(app.get("args") or {}), "storage_path": storage_path}}
        if isinstance(app, dict) and app.get("import_path") == GATEWAY
        else app
        for app in raw.get("applications") or []
    ]
    return {**raw, "applications": apps}


def without_haproxy(plan: Plan) -> Plan:
    """The same plan for a machine that has no HAProxy."""
    off = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    apps = tuple(replace(app, env_vars={**app.env_vars, **off}) for app in plan.apps)
    return replace(plan, apps=apps, controller_env={**plan.controller_env, **off})


def identity(raw: Mapping[str, Any]) -> tuple[str, str]:
    """Name and storage path of the gateway, as far as they can be read."""
    for app in raw.get("applications") or []:
        if isinstance(app, dict) and app.get("import_path") == GATEWAY:
            args = app.get("args") or {}
            fields = GatewayArgs.model_fields
            return (
                str(args.get("name", fields["name"].default)),
                str(args.get("storage_path", fields["storage_path"].default)),
            )
    return GatewayArgs.model_fields["name"].default, GatewayArgs.model_fields[
        "storage_path"
    ].default


def environment_of(raw: Mapping[str, Any]) -> dict[str, str]:
    """Every variable that the configuration sets for Serve's processes, before it is checked."""
    found: dict[str, str] = {}
    parts = [raw.get("controller_options"), *(raw.get("applications") or [])]
    for part in parts:
        runtime_env = part.get("runtime_env") if isinstance(part, dict) else None
        env_vars = runtime_env.get("env_vars") if isinstance(runtime_env, dict) else None
        if isinstance(env_vars, dict):
            found |= {str(name): str(value) for name, value in env_vars.items()}
    return found


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
        errors += [line.replace("user_config", path, 1) for line in error.message.split("; ")]
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
