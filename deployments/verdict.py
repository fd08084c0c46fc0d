"""What a provider's answer is worth: which are none, what is told of them, what follows."""

import time
from typing import Any

import orjson

from actors.errors import InvalidRequest, Overloaded, ProviderError, ProviderTimeout, RaygateError
from deployments.policy import Target
from deployments.providers.base import ProviderFailure, outcome_of, retry_after_s
from deployments.settlement import Settlement

# What a client did wrong is told to it as such; the rest (our key is refused, the target's
# model is gone, ...) is ours, and another target may do better.
_CLIENTS_FAULT = (400, 413, 415, 422)
_RETRYABLE = frozenset({408, 429, 529})
# The breaker hears of a Retry-After a batch later than we do, and lets nobody by before.
_REST_MARGIN_S = 0.1
_QUOTED = 500
"""Of an error's body, characters that a person reads."""


class AttemptFailed(Exception):
    """One attempt brought no answer. retryable: the same target may be tried again."""

    def __init__(self, error: RaygateError, retryable: bool, after_s: float | None = None) -> None:
        super().__init__(error, retryable, after_s)
        self.error = error
        self.retryable = retryable
        self.after_s = after_s


def failed(failure: ProviderFailure) -> AttemptFailed | Overloaded:
    """What follows from a reply that is none; settling it is the caller's."""
    if failure.kind == "full":
        return Overloaded(f"This replica has too much under way: {failure.message}.")
    return _failed(failure)


def _failed(failure: ProviderFailure) -> AttemptFailed:
    kind = ProviderTimeout if failure.kind == "timeout" else ProviderError
    charged = failure.kind != "connect"
    error = kind(f"The provider failed: {failure.message}.", should_retry=not charged)
    return AttemptFailed(error, retryable=True)


def bad_answer(
    status: int, headers: dict[str, str], body: bytes, target: Target, settlement: Settlement
) -> AttemptFailed:
    """An answer that is an error: quoted, classified, settled at no cost."""
    if status < 300:
        return no_completion(target, f"{status} instead of a completion", settlement)
    after_s = retry_after_s(headers, time.time_ns())
    settlement.answered_badly(status, after_s)
    # Who refuses our key may repeat it.
    quoted = "it refuses our credentials" if status in (401, 403) else quote(body)
    if status in _CLIENTS_FAULT:
        return AttemptFailed(InvalidRequest(f"The provider refuses this request: {quoted}"), False)
    if outcome_of(status) == "throttled":
        error = ProviderError(
            f"{target.name} is at its provider's own limit: it answered {status}: {quoted}",
            retry_after_s=after_s or 1.0,
        )
        return AttemptFailed(error, True, (after_s or 0.0) + _REST_MARGIN_S)
    if status < 400:
        # Followed, the call might be made twice, and our key go to where nobody meant it to.
        quoted = "a redirect, and those are not followed"
    error = ProviderError(f"{target.name} answered {status}: {quoted}")
    return AttemptFailed(error, status in _RETRYABLE or status >= 500, after_s)


def no_completion(target: Target, what: str, settlement: Settlement) -> AttemptFailed:
    """An answer that says it went well and is of no use: settled as one that may be billed."""
    settlement.lost("reset")
    return _failed(ProviderFailure("reset", f"provider {target.provider} answered with {what}"))


def are_choices(found: Any) -> bool:
    """Whether these are the choices of a chat completion."""
    return (
        isinstance(found, list)
        and found != []
        and all(isinstance(one, dict) and isinstance(one.get("message"), dict) for one in found)
    )


def must_be_events(headers: dict[str, str], target: Target) -> None:
    """Raises ProviderFailure where a 200 announces no event stream.

    A page or a packed body is nothing to a client that waits for events.
    """
    kind = headers.get("content-type", "text/event-stream")
    coding = headers.get("content-encoding", "identity")
    if not kind.lower().startswith("text/event-stream") or coding.lower() != "identity":
        found = kind if coding == "identity" else f"{coding}-coded {kind}"
        text = f"provider {target.provider} answered with {found[:80]} instead of a stream"
        raise ProviderFailure("reset", text)


def quote(body: bytes) -> str:
    """The message within an error's body, cut to what a person reads."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = None
    if not isinstance(message, str):
        message = body[: 4 * _QUOTED].decode("utf-8", "replace")
        if "\ufffd" in message[:-1]:
            message = ""  # no text: packed, or worse
    return message[:_QUOTED] or "no reason given"
