"""One request on its way through the pipeline, and what comes out of it."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from actors.charges import Usage
from actors.key_store import KeyRecord
from actors.limits import LimitState
from deployments.policy import Route, Who
from deployments.stream import LiveStream
from deployments.telemetry.trace import Trace

CacheWord = Literal["HIT", "MISS", "WAIT", "STALE", "BYPASS"]


class CacheWishes(NamedTuple):
    """What `x-raygate-cache` asks for. max_age_ns: refuse what is older."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_ns: int | None = None


class PromptCall(NamedTuple):
    """Which template is to be executed, and with what."""

    template_id: str
    inputs: dict[str, Any]
    version: int | None = None
    label: str | None = None
    experiment_id: str | None = None


NO_WISHES = CacheWishes()


@dataclass(slots=True)
class Prompted:
    """What step 2 found for a prompt call."""

    template_id: str
    version: int
    type: str
    fallback: str
    variant_id: str | None


@dataclass(slots=True)
class Request:
    """A request that has been read and whose key is known.

    body: an OpenAI chat body (step 2 writes it for a prompt call).
    deadline: on the event loop's clock, seconds.
    priority: 0 high, 1 normal, 2 low.
    route, who, max_output_tokens: known after step 2; input_tokens: from step 6 on.
    gone: nobody waits for the answer any more; late: because its time is over.
    calling: a provider is working on it.
    reply: what there is of an answer, once the pipeline has it.
    """

    id: str
    endpoint: str
    key: KeyRecord
    model: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    priority: int
    max_wait_ns: int
    deadline: float
    trace: Trace
    user: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    cache: CacheWishes = NO_WISHES
    fallback_allowed: bool = True
    prompt: PromptCall | None = None
    prompted: Prompted | None = None
    route: Route | None = None
    who: Who | None = None
    input_tokens: int = 0
    max_output_tokens: int = 0
    gone: bool = False
    late: bool = False
    calling: bool = False
    reply: "Reply | None" = None

    @property
    def tenant(self) -> str:
        """Whose answers these are: the team's; a key without a team is its own."""
        return f"team:{self.key.team}" if self.key.team else f"key:{self.key.id}"


@dataclass(slots=True)
class Reply:
    """What the pipeline answers.

    body: complete; kind: a JSON completion or an SSE stream of it. live: instead of a body,
    a stream that is still arriving.
    cost_nanos: of all attempts, as far as known. limits: states for the headers.
    reason: why this is a fallback or a stale answer; None for an ordinary answer.
    text: of a prompt's fallback.
    """

    body: bytes = b""
    kind: Literal["json", "sse"] = "json"
    live: LiveStream | None = None
    cache: CacheWord = "MISS"
    target: str = ""
    attempts: int = 0
    cost_nanos: int = 0
    usage: Usage | None = None
    limits: tuple[LimitState, ...] = ()
    reason: str | None = None
    text: str | None = None
