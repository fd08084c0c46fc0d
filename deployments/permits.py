"""The word of a target's breaker for one call."""

from actors.breaker_messages import IGNORED, Barred, Permit
from actors.errors import ProviderUnavailable
from deployments.absence import Away, heard, note, without
from deployments.policy import Target
from deployments.request import Request
from deployments.services import Services

_CLOSED = ("closed", "forced_closed")


async def pass_breaker(
    services: Services, request: Request, target: Target, charge_id: str
) -> Permit:
    """The last thing before a call. Closed, by a fresh view: no question asked.

    Raises ProviderUnavailable.
    """
    breaker = services.breaker
    view = breaker.view.get(target.name)
    closed = Permit(0, False) if view is None else Permit(view.generation, False)
    calm = view is None or (view.retry_after_ns == 0 and view.state in _CLOSED)
    # Who probes is counted: without a permit nobody goes on to a target that was last heard of
    # as recovering, however long the breaker is away.
    may_go_on = calm and breaker.incarnation != (0, 0)
    if calm and breaker.fresh():
        return closed
    if may_go_on and without(services, request, "circuit_breaker"):
        return closed
    asked = breaker.submit("permit", charge_id, target.name)
    try:
        if may_go_on:
            found = await heard(services, "circuit_breaker", asked, request.deadline)
        else:
            found = await asked
    except BaseException as error:
        breaker.tell("report", target.name, 0, IGNORED, 0, charge_id, None)
        if not isinstance(error, Away):
            raise
        note(services, request, str(error))
        return closed
    if isinstance(found, Barred):
        after_s = found.retry_after_ns / 1e9
        raise ProviderUnavailable(
            f"{target.name} is {found.state.replace('_', ' ')} after failures; "
            f"try again in {after_s:.3g} s.",
            retry_after_s=after_s,
        )
    permit: Permit = found
    return permit
