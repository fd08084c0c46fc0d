"""Reading, moving and checking a Serve configuration."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import checking, configuration
from deployments.cli.terminal import Problem

ROOT = Path(__file__).parents[3]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """The configuration that comes with the project."""
    return configuration.read(ROOT / "serve_config.yaml")


def test_the_shipped_configuration_is_valid(shipped: dict[str, Any]) -> None:
    """It has no errors, and its plan names the gateway and where its state is."""
    errors, plan = checking.check(shipped)
    assert errors == []
    assert plan is not None
    assert plan.gateway_app == "raygate"
    assert plan.folder == Path("~/.raygate/raygate").expanduser()
    assert plan.apps[0].env_vars["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def policy(raw: dict[str, Any]) -> dict[str, Any]:
    """The gateway's user_config."""
    found: dict[str, Any] = raw["applications"][0]["deployments"][0]["user_config"]
    return found


def args(raw: dict[str, Any]) -> dict[str, Any]:
    """The gateway's args."""
    found: dict[str, Any] = raw["applications"][0]["args"]
    return found


MISTAKES: list[tuple[str, Change, str, str]] = [
    (
        "a field that does not exist",
        lambda raw: args(raw).update(storag_path="x"),
        "applications[raygate].args.storag_path: there is no such field",
        "storage_path",
    ),
    (
        "a value that is not one of a few",
        lambda raw: args(raw)["providers"][0].update(kind="bard"),
        "applications[raygate].args.providers.0.kind: Input should be 'openai' or 'simulated'",
        "found 'bard'",
    ),
    (
        "a number out of bounds, in a list",
        lambda raw: policy(raw)["budgets"][0].update(amount_usd=-1),
        "applications[raygate].deployments[Gateway].user_config.budgets.0.amount_usd: ",
        "greater than or equal to 0 (found -1)",
    ),
    (
        "a typing error deep in the policy",
        lambda raw: policy(raw)["limits"][0].update(brust=5),
        "applications[raygate].deployments[Gateway].user_config.limits.0.brust: ",
        "do you mean burst?",
    ),
    (
        "a target of a provider that is not there",
        lambda raw: policy(raw)["models"]["gpt-4o"].update(targets=["openai/gpt-4o"]),
        "applications[raygate].deployments[Gateway].user_config.models.gpt-4o.targets: ",
        "there is simulated",
    ),
    (
        "a model without a price",
        lambda raw: policy(raw)["models"]["gpt-4o"].update(targets=["simulated/my-own"]),
        "applications[raygate].deployments[Gateway].user_config.models.gpt-4o.price: ",
        "simulated/my-own has no known price; give",
    ),
    (
        "no policy at all",
        lambda raw: raw["applications"][0]["deployments"][0].pop("user_config"),
        "applications[raygate].deployments[Gateway].user_config: is missing",
        "at least one model",
    ),
    (
        "a deployment that is not there",
        lambda raw: raw["applications"][0]["deployments"].append({"name": "Gatewy"}),
        "applications[raygate].deployments[Gatewy]: there is no such deployment",
        "Allowed: Gateway",
    ),
    (
        "a builder that is not there",
        lambda raw: raw["applications"][1].update(import_path="deployments.nowhere:build"),
        "applications[raygate-simulated-provider].import_path: ",
        "can't be imported",
    ),
    (
        "two names for one gateway",
        lambda raw: raw["applications"][1]["args"].update(name="other"),
        "applications[raygate-simulated-provider].args.name: must be the gateway's own name",
        "raygate (found 'other')",
    ),
    (
        "a field of Serve's that Serve would pass over",
        lambda raw: raw["http_options"].update(prot=1),
        "http_options.prot: there is no such field",
        "do you mean port?",
    ),
    (
        "no gateway",
        lambda raw: raw["applications"].pop(0),
        "applications: exactly one must have the import_path deployments.gateway:build",
        "",
    ),
]


@pytest.mark.parametrize(
    ("what", "change", "start", "part"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES]
)
def test_a_mistake_is_named_by_its_path_and_by_what_is_allowed(
    shipped: dict[str, Any], what: str, change: Change, start: str, part: str
) -> None:
    """One line, which begins with the path and says what is allowed."""
    raw = copy.deepcopy(shipped)
    change(raw)
    errors, plan = checking.check(raw)
    assert plan is None
    assert [error for error in errors if error.startswith(start) and part in error], errors
    assert len(errors) == 1, errors


def test_all_mistakes_are_told_at_once(shipped: dict[str, Any]) -> None:
    """Wrong args do not hide what is wrong with the policy."""
    raw = copy.deepcopy(shipped)
    args(raw).update(max_body_bytes=1)
    policy(raw)["cache"].update(ttl_s="soon")
    policy(raw).update(modles={})
    assert len(checking.check(raw)[0]) == 3


def test_another_port_moves_the_embedded_provider_too(shipped: dict[str, Any]) -> None:
    """Serve's port and the simulated provider's address change together, others stay."""
    raw = copy.deepcopy(shipped)
    args(raw)["providers"] += [
        {"name": "far", "kind": "simulated", "base_url": "http://10.0.0.9:8000/v1"},
        {"name": "near", "kind": "openai", "base_url": "http://127.0.0.1:8000/v1"},
    ]
    moved = configuration.moved(raw, 9999)
    assert moved["http_options"] == {"host": "127.0.0.1", "port": 9999}
    assert [each["base_url"] for each in args(moved)["providers"]] == [
        "http://127.0.0.1:9999/simulated/v1",
        "http://10.0.0.9:8000/v1",
        "http://127.0.0.1:8000/v1",
    ]
    assert raw["http_options"]["port"] == 8000


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "\0"])
def test_what_is_no_configuration_is_a_problem(tmp_path: Path, content: str) -> None:
    """A sentence that names the file, whatever it holds."""
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(Problem, match=r"bad\.yaml is not"):
        configuration.read(path)


def test_identity_is_read_from_what_is_not_valid() -> None:
    """Down must find what up has started, though the file was spoiled since."""
    app = {"import_path": configuration.GATEWAY, "args": {"name": "mine", "nonsense": 1}}
    assert configuration.identity({"applications": [app, 3]}) == ("mine", "~/.raygate")
    assert configuration.identity({}) == ("raygate", "~/.raygate")


def test_without_haproxy_every_process_is_told_so(shipped: dict[str, Any]) -> None:
    """The controller and each application have it switched off, and the rest kept."""
    _, plan = checking.check(shipped)
    assert plan is not None
    slow = configuration.without_haproxy(plan)
    for env in (slow.controller_env, *(app.env_vars for app in slow.apps)):
        assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
        assert env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
