"""What a request is told that a limit, or a budget, has no room for."""

from actors.charges import Exhausted
from actors.errors import InsufficientQuota, RateLimitExceeded
from actors.limits import Refused
from deployments.services import Services


def refusal(refused: Refused, services: Services) -> RateLimitExceeded:
    """The error for a limiter's no: which limit, whose, and when to come back."""
    whose = f"{refused.subject}'s" if refused.subject else "the cluster's"
    policy = services.policy
    limits = policy.policy.limits if policy is not None else ()
    rate = next((f"{x.rate} {x.unit} per {x.per}" for x in limits if x.name == refused.limit), "")
    if refused.retry_after_ns is None and refused.quantity > refused.burst:
        return RateLimitExceeded(
            f"This request needs {refused.quantity} {refused.unit} of {whose} limit "
            f"{refused.limit}, which never has more than {refused.burst} at once. "
            "Make the request smaller.",
            should_retry=False,
        )
    allowed = f"{refused.burst} at once" if refused.unit == "concurrent" else rate
    after_s = max((refused.retry_after_ns or 1_000_000_000) / 1e9, 0.001)
    return RateLimitExceeded(
        f"Rate limit {refused.limit} reached: {whose} {allowed} are used up. "
        f"Try again in {after_s:.3g} s.",
        retry_after_s=after_s,
    )


def exhausted(found: Exhausted) -> InsufficientQuota:
    """The error for the ledger's no: which budget, whose, and when it resets."""
    whose = f"{found.subject}'s" if found.subject else "the cluster's"
    resets = found.resets_in_ns
    when = f"It resets in {resets / 3.6e12:.1f} h." if resets is not None else "It does not reset."
    return InsufficientQuota(
        f"Budget {found.budget} reached: of {whose} {found.amount_nanos / 1e9:.6g} USD "
        f"{max(found.available_nanos, 0) / 1e9:.6g} USD are left, less than this request may "
        f"cost. {when} Raise the budget, or lower max_tokens.",
        should_retry=False,
    )
