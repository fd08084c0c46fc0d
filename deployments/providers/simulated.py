"""The simulated provider as an application on Ray Serve.

It speaks OpenAI's HTTP like any other provider, so the gateway never knows the difference. One
replica, because its dice, counters and call log are one.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from .secret import cluster_secret
from .simulated_app import create_app
from .simulated_knobs import Knobs
from .simulated_log import CallLog


class SimulatedArgs(BaseModel):
    """What the application is built from.

    name: the gateway that it serves; decides whose cluster secret is the key.
    api_key: the key that callers must bear; None takes the cluster's secret.
    models: the names that it answers to.
    knobs: how it behaves at first.
    log_path: the call log; None means ~/.raygate/<name>/simulated-calls.jsonl.
    log_max_bytes: at this size a new file is begun and one old file is kept.
    max_ongoing_requests: calls at once, beyond which Serve queues.
    num_cpus: what Ray's scheduler sets aside for it.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "default"
    api_key: SecretStr | None = None
    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = (
        "gpt-4o-mini",
        "gpt-4o",
        "gpt-4.1-mini",
        "gpt-4.1",
    )
    knobs: Knobs = Knobs()
    log_path: Path | None = None
    log_max_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 10_000
    num_cpus: Annotated[float, Field(ge=0)] = 0.0


@serve.ingress()
class SimulatedProvider:
    """Holds the pieces; Serve asks it for the application once it is constructed."""

    def __init__(self, args: SimulatedArgs) -> None:
        self._args = args
        self._key = args.api_key.get_secret_value() if args.api_key else cluster_secret(args.name)

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application that Serve runs on the replica."""
        args = self._args
        path = args.log_path or Path("~/.raygate", args.name, "simulated-calls.jsonl")
        log = CallLog(path.expanduser(), args.log_max_bytes, args.models)
        return create_app(args.knobs, args.models, self._key, log)


def build(args: SimulatedArgs) -> Application:
    """Build the application; `deployments.providers.simulated:build` in a Serve configuration."""
    deploy = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=args.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.num_cpus},
    )
    return deploy(SimulatedProvider).bind(args)
