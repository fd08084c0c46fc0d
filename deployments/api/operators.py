"""More of `/admin/v1/...`: experiments, and the knobs of a simulated provider."""

from typing import Any

import orjson

from actors.errors import InvalidRequest, NotFound, ProviderError
from actors.experiment_manager import Experiment
from deployments.api.admin import Body, Query, everywhere
from deployments.providers.base import ProviderFailure
from deployments.providers.simulated_client import SimulatedClient
from deployments.services import Services

_KNOBS = ("control", "log", "stats")


async def list_experiments(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """Experiments with their variants and states."""
    return {"data": [_shown(one) for one in await services.experiments.ask("list")]}


def _shown(experiment: Experiment) -> dict[str, Any]:
    return {
        **experiment._asdict(),
        "variants": [variant._asdict() for variant in experiment.variants],
    }


async def create_experiment(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """Make an experiment; it runs when it is started."""
    made = await services.experiments.ask("create", path["id"], body)
    return _shown(made)


async def start_experiment(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """Start it; when this returns, every replica assigns its variants."""
    made = await services.experiments.ask("start", path["id"])
    await everywhere(services, services.experiments)
    return _shown(made)


async def stop_experiment(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """Stop it; when this returns, no replica assigns its variants."""
    made = await services.experiments.ask("stop", path["id"])
    await everywhere(services, services.experiments)
    return _shown(made)


async def experiment_results(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """What came of each variant."""
    return await services.experiments.ask("results", path["id"])


async def remove_experiment(
    services: Services, path: dict[str, str], query: Query, body: Body
) -> Any:
    """Forget a draft or stopped experiment, and its results."""
    if not await services.experiments.ask("remove", path["id"]):
        text = f"There is no experiment {path['id'][:100]!r}."
        raise NotFound(text, code="experiment_not_found")
    await everywhere(services, services.experiments)
    return {"id": path["id"], "removed": True}


async def ask_provider(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Read a simulated provider's `control`, `stats` or `log`, by its own key."""
    return await _manage(services, "GET", path, query, None)


async def tell_provider(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Turn a simulated provider's knobs: `control`."""
    return await _manage(services, "PUT", path, query, orjson.dumps(body))


async def reset_provider(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Put a simulated provider's `control` back to its start, or its `stats` to zero."""
    return await _manage(services, "DELETE", path, query, None)


async def _manage(
    services: Services, method: str, path: dict[str, str], query: Query, body: bytes | None
) -> Any:
    """Behind the gateway, so that an operator needs one key and one address."""
    provider = services.providers.get(path["name"])
    if not isinstance(provider, SimulatedClient):
        raise NotFound(f"There is no simulated provider {path['name'][:100]}.", param="name")
    if path["what"] not in _KNOBS:
        raise NotFound(f"A simulated provider has {', '.join(_KNOBS)}.")
    try:
        status, found = await provider.manage(method, path["what"], query, body)
    except ProviderFailure as error:
        raise ProviderError(f"{provider.name} can't be asked ({error}).") from None
    if status >= 400:
        raise InvalidRequest(found["error"]["message"], param=found["error"].get("param"))
    return found
