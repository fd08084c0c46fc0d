"""Structure: the half of the configuration that changes with a rolling restart (`args`)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """A part of the configuration: unknown fields are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProviderArgs(Part):
    """Where a provider is.

    api_key_env: the environment variable that holds its key.
    prices: whose prices apply, by the provider's name in `genai-prices`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    kind: Literal["openai", "simulated"] = "openai"
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    api_key_env: str | None = None
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    prices: str = "openai"

    @model_validator(mode="after")
    def _key_needed(self) -> "ProviderArgs":
        if self.kind == "openai" and not self.api_key_env:
            raise ValueError("kind openai needs api_key_env, the variable that holds its key")
        return self


class ShardArgs(Part):
    """How many hosts a singleton has; more than one where one can't keep up."""

    rate_limiter: Annotated[int, Field(ge=1, le=64)] = 1
    response_cache: Annotated[int, Field(ge=1, le=64)] = 1


class GatewayArgs(Part):
    """Structure.

    name: of this gateway on its cluster: its singletons' namespace, its folder.
    storage_path: folder for durable state, on the node that holds the singletons.
    max_body_bytes: larger requests get 413.
    default_timeout_s, max_timeout_s: of a whole request; the client may ask for less.
    drain_s: how long a call goes on after its client has gone, so that its usage is known.
    body_timeout_s, body_bytes_per_s: a body has to come within that time, and a second more for
    each so many bytes; else 408.
    max_bodies_bytes: of all bodies over 64 KiB that a replica holds at a time.
    max_requests: in progress at a replica. max_lag_s: how late its event loop may be. Past
    either, requests get 503: low priority first, high last.
    max_client_connections: open at a replica; more are closed at once.
    send_timeout_s: a client that takes next to nothing of its answer for so long is cut off.
    shards: taken when the singletons are first started; later changes wait for their next
    start, after `raygate down`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] = "raygate"
    storage_path: str = "~/.raygate"
    providers: Annotated[tuple[ProviderArgs, ...], Field(min_length=1)]
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 10 << 20
    default_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    max_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    body_bytes_per_s: Annotated[float, Field(ge=1, le=1e9)] = 16_384.0
    max_bodies_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 512 << 20
    max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_lag_s: Annotated[float, Field(gt=0, le=60)] = 0.25
    max_client_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    send_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    shards: ShardArgs = ShardArgs()
