"""What a host answers to a batch, and how a stored answer is told again later."""

from typing import Any, NamedTuple

_DURATIONS = ("retry_after_ns", "wait_ns", "resets_in_ns", "reset_ns")


class OutOfStep(NamedTuple):
    """The reply to a batch that is neither the caller's last nor its next: start anew."""

    number: int


class Reply(NamedTuple):
    """epoch: of the host's claim; restarts: of its process since; replies: one per item."""

    epoch: int
    restarts: int
    replies: list[Any] | OutOfStep


def aged(reply: Any, by_ns: int) -> Any:
    """A stored reply as it reads `by_ns` later: its durations are that much shorter."""
    fields = getattr(reply, "_fields", ())
    shorter = {
        name: max(0, getattr(reply, name) - by_ns)
        for name in _DURATIONS
        if name in fields and getattr(reply, name) is not None
    }
    return reply._replace(**shorter) if shorter else reply
