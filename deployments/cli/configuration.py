"""A Serve configuration as the commands use it: found, read, moved to another port."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

import deployments
from deployments.cli.terminal import Problem
from deployments.config import Policy
from deployments.structure import GatewayArgs

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
