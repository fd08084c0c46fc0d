from types import FunctionType
from typing import Any, cast

import pytest
from pydantic import ValidationError
from ray.experimental import internal_kv
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from deployments.providers.secret import cluster_secret, forget_cluster_secret
from deployments.providers.simulated import SimulatedArgs, build


@pytest.fixture
def kv(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Any, Any], bytes]:
    """A dictionary in place of the cluster's key-value store."""
    stored: dict[tuple[Any, Any], bytes] = {}

    def put(key: str, value: str, overwrite: bool, namespace: str) -> None:
        if overwrite or (namespace, key) not in stored:
            stored[namespace, key] = value.encode()

    def get(key: str, namespace: str) -> bytes:
        return stored[namespace, key]

    def delete(key: str, namespace: str) -> None:
        stored.pop((namespace, key), None)

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", get)
    monkeypatch.setattr(internal_kv, "_internal_kv_del", delete)
    return stored


def test_the_builder_takes_what_a_serve_configuration_gives() -> None:
    """Serve hands the builder's model a plain dictionary; an application comes of it."""
    args = {"models": ["m"], "knobs": {"ttft_s": 0.1, "outages": [{"from_s": 1, "for_s": 2}]}}
    app = call_user_app_builder_with_args_if_necessary(cast(FunctionType, build), args)
    assert isinstance(app, Application)


@pytest.mark.parametrize(
    "args", [{"modles": ["m"]}, {"models": []}, {"knobs": {"error_rate": 7}}, {"log_max_bytes": 1}]
)
def test_a_wrong_argument_is_refused(args: dict[str, Any]) -> None:
    """A configuration's mistakes show before anything is deployed."""
    with pytest.raises(ValidationError):
        call_user_app_builder_with_args_if_necessary(cast(FunctionType, build), args)


def test_a_configured_key_is_not_shown() -> None:
    """Printing the arguments tells nobody the key."""
    assert "sk-hidden" not in repr(SimulatedArgs.model_validate({"api_key": "sk-hidden"}))


def test_everybody_in_a_cluster_gets_the_same_secret(kv: dict[tuple[Any, Any], bytes]) -> None:
    """The first to ask makes it, each gateway has its own, and a forgotten one is made anew."""
    first = cluster_secret("a")
    assert cluster_secret("a") == first
    assert cluster_secret("b") != first
    forget_cluster_secret("a")
    assert cluster_secret("a") != first
    assert len(kv) == 2
