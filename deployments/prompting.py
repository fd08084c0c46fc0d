"""Step 2: which template version, which model; and how many tokens, once that matters."""

import asyncio
from typing import Any

import orjson

from actors.errors import InvalidRequest, NotAllowed, NotFound
from actors.experiment_manager import Experiment, Variant, variant_for
from actors.prompt_registry import Template
from deployments.absence import heard
from deployments.policy import Route, Who
from deployments.prompts import choose_version, fallback_text, render
from deployments.request import PromptCall, Prompted, Request
from deployments.services import Services
from deployments.tokens import LONG_TEXT_BYTES, count_chat

_MAX_FIELDS = ("max_completion_tokens", "max_tokens")


async def prepare(services: Services, request: Request) -> None:
    """Make `request` ready for the steps to come: its body, route and subjects.

    Raises NotFound, InvalidRequest, PromptInputsInvalid and NotAllowed.
    """
    if request.prompt is not None:
        await _write_body(services, request, request.prompt)
    route = route_of(services, request)
    request.route, request.model = route, route.name
    request.who = Who(request.key.id, request.key.team, route.name, request.user)
    body = request.body
    body["model"] = route.name
    request.max_output_tokens = _most_output(request, route)
    if request.stream:
        _ask_for_usage(request)


async def count_input(request: Request) -> None:
    """Know the input tokens; an answer from the cache does without."""
    assert request.route is not None
    model, body = request.route.targets[0].model, request.body
    if request.trace.facts.get("bytes", 0) > LONG_TEXT_BYTES:
        # Long texts take milliseconds to count, in which the replica would answer nobody.
        request.input_tokens = await asyncio.to_thread(count_chat, model, body)
    else:
        request.input_tokens = count_chat(model, body)


def route_of(services: Services, request: Request) -> Route:
    """The targets behind the model's name. Raises NotFound and NotAllowed."""
    assert services.policy is not None
    route = services.policy.routes.get(request.model)
    if route is None:
        raise NotFound(
            f"There is no model {request.model[:100]!r} here. GET /v1/models lists them.",
            code="model_not_found",
            param="model",
        )
    if request.key.models and route.name not in request.key.models:
        raise NotAllowed(
            f"This key may not use {route.name}; it may use {', '.join(request.key.models)}.",
            param="model",
        )
    return route


async def _write_body(services: Services, request: Request, call: PromptCall) -> None:
    """The chat body that the template makes of the inputs."""
    assert services.policy is not None
    template = await _template(services, request, call.template_id)
    variant = await _variant(services, request, call)
    version = choose_version(template, call.version, call.label, variant)
    fallbacks = {**services.fallbacks, **services.policy.policy.fallbacks}
    request.prompted = Prompted(
        template_id=template.id,
        version=version.version,
        type=version.type,
        fallback=fallback_text(version, fallbacks),
        variant_id=variant.id if variant else None,
    )
    facts = request.trace.facts
    facts |= {"prompt": template.id, "version": version.version}
    if variant is not None:
        facts |= {"variant": variant.id, "experiment": call.experiment_id}
    messages = render(version, call.inputs)
    body: dict[str, Any] = {"messages": messages, "stream": request.stream}
    temperature = version.temperature
    if variant is not None and variant.temperature is not None:
        temperature = variant.temperature
    if temperature is not None:
        body["temperature"] = temperature
    if version.max_tokens is not None:
        body["max_tokens"] = version.max_tokens
    chosen = variant.model if variant is not None and variant.model else version.model
    request.model = chosen or next(iter(services.policy.routes))
    request.body = body
    request.trace.facts["bytes"] = len(orjson.dumps(messages))


async def _template(services: Services, request: Request, id: str) -> Template:
    template = services.prompts.view.get(id)
    if template is None or not services.prompts.fresh():
        asked = services.prompts.submit("get", id)
        template = await heard(services, "prompt_registry", asked, request.deadline)
    found: Template = template
    return found


async def _variant(services: Services, request: Request, call: PromptCall) -> Variant | None:
    if call.experiment_id is None:
        return None
    experiments = services.experiments
    experiment: Experiment | None = experiments.view.get(call.experiment_id)
    if experiment is None or not experiments.fresh():
        asked = experiments.submit("list")
        listed = await heard(services, "experiment_manager", asked, request.deadline)
        experiment = next((one for one in listed if one.id == call.experiment_id), None)
    if experiment is None:
        raise NotFound(
            f"There is no experiment {call.experiment_id[:100]!r}.",
            code="experiment_not_found",
            param="experiment_id",
        )
    if experiment.prompt not in (None, call.template_id):
        raise InvalidRequest(
            f"Experiment {experiment.id} is about {experiment.prompt}, not {call.template_id}.",
            param="experiment_id",
        )
    return variant_for(experiment, request.user or request.key.id)


def _most_output(request: Request, route: Route) -> int:
    """The most output tokens that this call may bring; the provider is told the same."""
    body = request.body
    given = [(field, body[field]) for field in _MAX_FIELDS if body.get(field) is not None]
    for field, value in given:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**9:
            raise InvalidRequest(f"{field} must be a whole number of at least 1.", param=field)
    choices = body.get("n")
    if choices is None:
        choices = 1
    elif not isinstance(choices, int) or isinstance(choices, bool) or not 1 <= choices <= 128:
        raise InvalidRequest("n must be a whole number from 1 to 128.", param="n")
    if not given:
        body[route.max_tokens_field] = most = route.max_output_tokens
    else:
        most = min(value for _, value in given)
        for field, _ in given:
            del body[field]
        body[route.max_tokens_field] = most
    return int(most * choices)


def _ask_for_usage(request: Request) -> None:
    """Streams tell their usage only when asked; the client is spared it where it did not."""
    options = request.body.get("stream_options")
    request.body["stream_options"] = {
        **(options if isinstance(options, dict) else {}),
        "include_usage": True,
    }
