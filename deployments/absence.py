"""What a request does while a singleton does not answer: wait, go on without it, or give up.

A restart takes two seconds, and nearly every request can wait for that. What is decided here,
by the policy's `unreachable`, is what happens when it takes longer.
"""

import asyncio
from typing import Any

from actors.consultant import Consultant
from actors.errors import SingletonUnavailable
from deployments.config import Needed, Spared
from deployments.request import Request
from deployments.services import Services

_LOOK_S = 0.1
_RETRY_AFTER_S = 2.0
_WAIT = Needed()


class Away(Exception):
    """A singleton is silent, and this request is to go on without it."""


def without(services: Services, request: Request, name: str) -> bool:
    """Whether a singleton is silent for so long that it is not even asked.

    Raises SingletonUnavailable where it can't be done without.
    """
    one, rule = services.consultants[name], _rule(services, name)
    if rule.then == "wait" or not _silent(one, rule.after_s):
        return False
    if rule.then == "refuse":
        raise _refusal(name)
    note(services, request, name)
    return True


async def heard(
    services: Services, name: str, answer: "asyncio.Future[Any]", deadline: float
) -> Any:
    """The answer of a singleton; it may be in a queue there for as long as the singleton lives.

    deadline: of the request, on the loop's clock; half of what is left until then is the most
        that is waited for who is silent.
    Raises Away or SingletonUnavailable when the patience is over, and what the answer raises.
    The answer is cancelled then: whoever asked gives back what it may have brought.
    """
    rule = _rule(services, name)
    if rule.then == "wait" or answer.done():
        return await answer
    watch = _Watch(services.consultants[name], rule.after_s, answer, deadline)
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not watch.over or (task is not None and task.cancelling()):
            raise
        if rule.then == "refuse":
            raise _refusal(name) from None
        raise Away(name) from None
    finally:
        watch.timer.cancel()


def note(services: Services, request: Request, name: str) -> None:
    """Count that a request went on without a singleton."""
    services.metrics.count("raygate_went_on_without_total", name)
    request.trace.facts[f"without_{name}"] = True


def silent_s(one: Consultant) -> float:
    """For how long nothing was heard of it, at most a second too much; 0: it was never heard."""
    return one.view_age_ns() / 1e9 if one.incarnation != (0, 0) else 0.0


class _Watch:
    """Looks now and then whether it is still worth waiting. over: it is not."""

    def __init__(
        self, one: Consultant, after_s: float, answer: "asyncio.Future[Any]", deadline: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._one, self._after_s, self._answer = one, after_s, answer
        self._half = now + (deadline - now) / 2
        self.over = False
        self.timer = self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        late = self._loop.time() >= self._half
        if _silent(self._one, 0.0 if late else self._after_s):
            self.over = True
            self._answer.cancel()
        else:
            self.timer = self._loop.call_later(_LOOK_S, self._look)


def _silent(one: Consultant, for_s: float) -> bool:
    # A watch returns well within a view's life, so an old view tells of a host that hangs.
    return not (one.reachable and one.fresh()) and silent_s(one) >= for_s


def _rule(services: Services, name: str) -> Needed | Spared:
    if services.policy is None:
        return _WAIT
    rule: Needed | Spared = getattr(services.policy.policy.unreachable, name)
    return rule


def _refusal(name: str) -> SingletonUnavailable:
    return SingletonUnavailable(
        f"{name} does not answer, and this gateway's policy is not to wait for it.",
        retry_after_s=_RETRY_AFTER_S,
    )
