"""Autoscaling by the load that counts.

Serve scales on requests in progress. A request that waits for a limit, for money or for
somebody else's answer is in progress too, but more replicas would not make it go faster, and
each would only wait as well. So replicas report what they work on, and `by_work`, named as
`autoscaling_config.policy` of the deployment, scales on that.

The controller gets this module by value and may not have this project: nothing but the
standard library is imported here.
"""

from collections.abc import Awaitable, Callable
from typing import Any

WORKING = "raygate_working"
"""The name under which a replica reports how many requests it works on."""

_App = Callable[[Any, Any, Any], Awaitable[None]]


class Queue:
    """Counts those who wait: `with queue:` around the waiting."""

    __slots__ = ("length",)

    def __init__(self) -> None:
        self.length = 0

    def __enter__(self) -> None:
        self.length += 1

    def __exit__(self, *raised: object) -> None:
        self.length -= 1


class Work:
    """How many requests a replica has in hand, to the last byte of their answers.

    waiting: tells how many of them wait for something that is not this replica's work.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._in_hand = 0

    def counted(self, app: _App) -> _App:
        """The same app; its requests are counted."""

        async def counting(scope: Any, receive: Any, send: Any) -> None:
            self._in_hand += 1
            try:
                await app(scope, receive, send)
            finally:
                self._in_hand -= 1

        return counting

    def stats(self) -> dict[str, float]:
        """For Serve's `record_autoscaling_stats`."""
        # A request can have left while its place in a queue is still being given up.
        return {WORKING: max(0, self._in_hand - self._waiting())}


def by_work(context: Any) -> tuple[float, dict[str, Any]]:
    """Replicas for what is being worked on: a policy for Serve's `AutoscalingConfig`.

    context: Serve's `AutoscalingContext`; `target_ongoing_requests` of the configuration is
    how many requests a replica should work on. Delays, factors and bounds of the configuration
    apply as ever. Requests that no replica has taken yet count as work. Until the first
    report nothing changes.
    """
    reported = context.aggregated_metrics.get(WORKING, {})
    if not reported:
        return context.target_num_replicas, {}
    load = sum(reported.values()) + context.total_queued_requests
    return load / context.config.target_ongoing_requests, {}
