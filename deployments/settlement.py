"""Step 8: what a provider call cost, and what it says of the provider's health.

Everything is told to the singletons in batches, off the response path, and delivered
also when the client has gone. Each call ends in exactly one of the methods below.
"""

from typing import Any, TypeGuard

from actors.breaker_messages import FAILURE, IGNORED, SUCCESS, Permit
from actors.charges import MAX_CHARGE_NANOS, Usage
from actors.tallies import Interaction
from deployments.absence import silent_s
from deployments.admission import Admission, give_back
from deployments.places import Place
from deployments.policy import Target
from deployments.providers.base import Answer, FailureKind, outcome_of
from deployments.request import Reply, Request
from deployments.services import Services

# More than any model takes or gives: who says so is not believed.
_MOST_TOKENS = 10**9


def note_interaction(services: Services, request: Request, reply: Reply, failed: bool) -> None:
    """What an experiment learns of a request that it was part of."""
    call, prompted = request.prompt, request.prompted
    if call is None or call.experiment_id is None or prompted is None or not prompted.variant_id:
        return
    usage = reply.usage or Usage()
    answered = "fallback" if reply.text is not None else "success"
    services.interacted(
        Interaction(
            experiment=call.experiment_id,
            variant=prompted.variant_id,
            outcome="error" if failed else answered,
            cached=reply.cache in ("HIT", "WAIT", "STALE") and reply.text is None,
            tokens_in=usage.input,
            tokens_out=usage.output,
            cost_nanos=reply.cost_nanos,
            latency_ns=request.trace.elapsed_ns(),
        )
    )


def usage_of(found: Any) -> Usage | None:
    """The tokens in an OpenAI `usage` object; None where it has none that can be believed."""
    if not isinstance(found, dict):
        return None
    input, output = found.get("prompt_tokens"), found.get("completion_tokens")
    if not (_is_count(input) and _is_count(output)):
        return None
    cached = _detail(found.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(found.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(input, min(cached, input), output, min(reasoning, output))


def _is_count(found: Any) -> TypeGuard[int]:
    return type(found) is int and 0 <= found <= _MOST_TOKENS


def _detail(details: Any, name: str) -> int:
    found = details.get(name) if isinstance(details, dict) else 0
    return found if _is_count(found) else 0


def estimated_usage(request: Request, answer: Answer) -> Usage:
    """For a provider that tells no usage: about four bytes a token, at most what was allowed."""
    output = min(-(-len(answer.body) // 4), request.max_output_tokens)
    return Usage(input=request.input_tokens, output=output)


class Settlement:
    """The end of one call. cost_nanos: what was posted (0 until then)."""

    __slots__ = (
        "_admission", "_open", "_permit", "_place", "_request", "_services", "_target",
        "cost_nanos",
    )  # fmt: skip

    def __init__(
        self,
        services: Services,
        request: Request,
        target: Target,
        admission: Admission,
        permit: Permit,
        place: Place,
    ) -> None:
        self._place = place
        self._services = services
        self._request = request
        self._target = target
        self._admission = admission
        self._permit = permit
        self._open = True
        self.cost_nanos = 0

    def succeeded(self, usage: Usage | None, estimate: Usage, first_byte_ns: int) -> Usage:
        """The answer is complete. estimate: taken where the provider told no usage."""
        if self._open:
            told = usage or estimate
            self._place.answered(self._request.stream, first_byte_ns, told.output)
            self._report(SUCCESS, first_byte_ns)
            self._post(usage or self._possible(estimate), estimated=usage is None)
        return usage or self._possible(estimate)

    def answered_badly(self, status: int, retry_after_s: float | None) -> None:
        """The provider answered with an error, which costs nothing."""
        self._place.leave()
        if self._open:
            rest_ns = None if retry_after_s is None else round(retry_after_s * 1e9)
            self._report(outcome_of(status), 0, rest_ns)
            self._post(Usage(), estimated=False)

    def lost(self, kind: FailureKind, seen: Usage | None = None) -> None:
        """No complete answer came. seen: what a stream had brought until then.

        Where nothing was sent there is no charge; else the provider may bill what we do not
        know, and the worst case is posted as an estimate.
        """
        self._place.leave()
        if not self._open:
            return
        # That no connection to it became free says nothing of the provider.
        self._report(IGNORED if kind == "full" else FAILURE, 0)
        if kind in ("connect", "full"):
            self._open = False
            self._services.calls.never_was(self._admission.charge_id)
            give_back(self._services, self._admission)
        elif seen is not None:
            self._post(self._possible(seen), estimated=True)
        else:
            self._post_worst()

    def abandoned(self, seen: Usage | None = None) -> None:
        """We broke it off (the client has gone for too long, or a bug of ours)."""
        self._place.leave()
        if not self._open:
            return
        self._report(IGNORED, 0)
        if seen is not None:
            self._post(self._possible(seen), estimated=True)
        else:
            self._post_worst()

    def _possible(self, estimate: Usage) -> Usage:
        """An estimate by bytes, cut to what the call was allowed."""
        return estimate._replace(output=min(estimate.output, self._request.max_output_tokens))

    def _post_worst(self) -> None:
        request = self._request
        usage = Usage(input=request.input_tokens, output=request.max_output_tokens)
        self._post(usage, estimated=True, amount=self._admission.worst_nanos)

    def _post(self, usage: Usage, estimated: bool, amount: int | None = None) -> None:
        services, admission = self._services, self._admission
        self._open = False
        cost = admission.prices.cost(usage) if amount is None else amount
        # What the ledger refuses would not be counted at all.
        cost = min(cost, MAX_CHARGE_NANOS)
        self.cost_nanos = cost
        services.calls.ended(
            admission.charge_id, admission.facts, admission.held, cost, usage, estimated
        )
        if admission.taken is not None:
            admission.taken.settle(usage.input + usage.output)
        target, count = self._target.name, services.metrics.count
        count("raygate_tokens_total", target, "input", by=usage.input)
        count("raygate_tokens_total", target, "output", by=usage.output)
        count("raygate_cost_nanodollars_total", target, by=cost)

    def _report(self, outcome: str, first_byte_ns: int, rest_ns: int | None = None) -> None:
        name = self._target.name
        permit_id = self._admission.charge_id if self._permit.probe else None
        services = self._services
        assert services.policy is not None
        # What it hears after its window is over tells it nothing; while it is away for longer,
        # only what gives something back waits for it.
        if permit_id or silent_s(services.breaker) < services.policy.breaker(name).window_s:
            services.breaker.tell(
                "report", name, self._permit.generation, outcome, first_byte_ns, permit_id, rest_ns
            )
        self._services.metrics.count("raygate_provider_calls_total", name, outcome)
