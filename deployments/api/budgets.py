"""`/admin/v1/budgets`: every budget, and those that operators set at run time."""

from typing import Any

from actors import fields
from actors.errors import InvalidRequest
from deployments.api.admin import Body, Query, everywhere
from deployments.config import NANOS
from deployments.services import Services

_MAX_USD = 1e9
_FIELDS = ("scope", "subject", "period", "amount_usd", "timezone")


async def list_budgets(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Each budget with what is posted, held and left."""
    return {"data": await services.costs.ask("budgets")}


async def set_budget(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Set a budget beside the policy's, or change it, keeping what was used.

    It binds every charge that is reserved after this returns: the cost tracker itself knows
    whom it binds, and no replica spends what it was lent under the budgets of before.
    """
    spec = {**fields.mapping(body, "", _FIELDS)}
    if "amount_usd" not in spec:
        raise InvalidRequest("Give amount_usd: the budget, in US dollars.", param="amount_usd")
    usd = fields.number(spec.pop("amount_usd"), "amount_usd", 0.0, _MAX_USD)
    spec = {name: value for name, value in spec.items() if value is not None}
    spec["amount_nanos"] = round(usd * NANOS)
    terms = await services.costs.ask("set_budget", path["name"], spec)
    await everywhere(services, services.costs)
    return {**terms._asdict(), "source": "admin"}


async def remove_budget(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Take away a budget that was set at run time; one of the policy's is a conflict."""
    await services.costs.ask("remove_budget", path["name"])
    return {"name": path["name"], "removed": True}
