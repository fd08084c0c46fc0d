"""LiteLLM's proxy: plain with one worker, and with Redis for cache and limits."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ports import free_ports
from benchmarks.speed.peers.environment import python_bin
from benchmarks.speed.programs import need, running, wait_for
from benchmarks.speed.programs import version as version_of
from benchmarks.speed.subjects import STREAMS, Subject, by_model

_AMPLE = 10**9
_QUIET = {
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
}


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A Redis that keeps nothing on disk; yields its port. Raises Missing."""
    (port,) = free_ports(1)
    binary, log = need("redis-server", "redis-server"), folder / "redis.log"
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with running([*command, "--save", "", "--appendonly", "no"], log):
        yield port


@contextmanager
def litellm(
    folder: Path, upstream: str, streams: str, redis_port: int | None
) -> Iterator[tuple[Subject, dict[str, str]]]:
    """The proxy, warm enough to answer, and its versions. redis_port: with two workers then."""
    programs = python_bin()
    (port,) = free_ports(1)
    name = "litellm_redis" if redis_port else "litellm"
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    # JSON is YAML.
    config.write_text(json.dumps(_config(upstream, streams, redis_port)))
    workers = 2 if redis_port else 1
    command = [str(programs / "litellm"), "--config", str(config), "--telemetry", "False"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)]
    unset = ("DATABASE_URL", "REDIS_URL", "REDIS_HOST", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in unset} | _QUIET
    # It refuses to start without one, or with a guessable one.
    env["LITELLM_MASTER_KEY"] = key = f"sk-{secrets.token_hex(32)}"
    url = f"http://127.0.0.1:{port}"
    with running(command, log, env, cwd=folder) as process:
        wait_for(f"{url}/health/liveliness", process, log)
        title = "LiteLLM, 2 workers, Redis" if redis_port else "LiteLLM, 1 worker"
        asks = by_model(f"{url}/v1/chat/completions", {"authorization": f"Bearer {key}"})
        subject = Subject(
            name, title, asks, True, lambda: [process, *process.children(recursive=True)]
        )
        yield subject, _versions(programs)


def _config(upstream: str, streams: str, redis_port: int | None) -> dict[str, Any]:
    urls = {"gpt-4o-mini": upstream}
    urls |= {f"stream-{kind}": f"{streams}/{pace}/v1" for kind, pace in STREAMS.items()}
    limits = {"rpm": _AMPLE, "tpm": _AMPLE} if redis_port else {}
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": "openai/gpt-4o-mini",
                "api_base": url,
                "api_key": "sk-benchmark",
                **limits,
            },
        }
        for name, url in urls.items()
    ]
    config: dict[str, Any] = {
        "model_list": models,
        "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 600},
        "general_settings": {"disable_spend_logs": True},
    }
    if redis_port:
        place = {"host": "127.0.0.1", "port": redis_port}
        config["litellm_settings"] |= {"cache": True, "cache_params": {"type": "redis", **place}}
        config["router_settings"] = {
            "routing_strategy": "usage-based-routing-v2",
            "redis_host": place["host"],
            "redis_port": redis_port,
        }
    return config


def _versions(programs: Path) -> dict[str, str]:
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    found = subprocess.run(
        [str(programs / "python"), "-c", ask], capture_output=True, text=True, check=True
    )
    return {"litellm": found.stdout.strip()}


def redis_version() -> str:
    """What the installed Redis says of itself."""
    return version_of(need("redis-server", "redis-server"), "--version")
