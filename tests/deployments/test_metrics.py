import re

import pytest

from deployments.telemetry.metrics import Metrics, exposition, label
from tests.replies import eventually
from tests.stack import Stack

pytestmark = pytest.mark.anyio

_SAMPLE = re.compile(
    r'^[a-z_]+(\{[a-z]+="(?:[^"\\]|\\.)*"(?:,[a-z]+="(?:[^"\\]|\\.)*")*\})? [-+0-9.e]+$'
)


def samples(text: str) -> dict[str, float]:
    """The samples of a scrape by name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in lines:
        assert _SAMPLE.match(line), line
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def scrape(stack: Stack) -> dict[str, float]:
    """What Prometheus would read."""
    status, text, headers = await stack.call("GET", "/metrics")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    return samples(text)


async def test_a_scrape_counts_what_happened(stack: Stack) -> None:
    """Requests by outcome, cache results, provider calls, tokens, money, fallbacks."""
    before = await scrape(stack)
    await stack.chat("metered")
    await stack.chat("metered")
    await stack.chat("nothing", model="gpt-99")
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(error_rate=1.0)
    await stack.execute("metered fallback")
    names = {
        'raygate_requests_total{endpoint="chat",model="gpt-4o-mini",outcome="success"}': 2,
        'raygate_requests_total{endpoint="chat",model="",outcome="model_not_found"}': 1,
        'raygate_requests_total{endpoint="prompt",model="gpt-4o-mini",outcome="provider_error"}': 1,
        'raygate_cache_total{result="HIT"}': 1,
        'raygate_provider_calls_total{target="simulated/gpt-4o-mini",outcome="success"}': 1,
        'raygate_provider_calls_total{target="simulated/gpt-4o-mini",outcome="failure"}': 1,
        'raygate_fallbacks_total{reason="provider_error"}': 1,
        "raygate_request_seconds_count": 3,
    }

    async def arrived() -> bool:
        now = await scrape(stack)
        return all(now.get(name, 0) - before.get(name, 0) == n for name, n in names.items())

    await eventually(arrived)
    now = await scrape(stack)
    money = 'raygate_cost_nanodollars_total{target="simulated/gpt-4o-mini"}'
    spent = (await stack.services.costs.ask("status"))["posted_today_nanos"]
    assert now[money] == spent
    for singleton in stack.services.consultants:
        assert now[f'raygate_singleton_up{{singleton="{singleton}"}}'] == 1


async def test_no_label_tells_of_a_tenant(stack: Stack) -> None:
    """Teams, keys and users are in traces and the ledger, never in metrics."""
    await stack.chat("unnamed", user="very-private-person")
    _, text, _ = await stack.call("GET", "/metrics")
    assert "very-private" not in text
    assert "team-a" not in text


async def test_metrics_need_a_key(stack: Stack) -> None:
    """401 without one."""
    async with stack.session.get(stack.url + "/metrics") as reply:
        assert reply.status == 401


def test_deltas_are_taken_once() -> None:
    """What was handed over is not handed over again."""
    metrics = Metrics()
    metrics.count("raygate_cache_total", 'H"IT')
    metrics.count("raygate_cache_total", 'H"IT', by=2)
    assert metrics.take() == {'raygate_cache_total{result="H\\"IT"}': 3}
    assert metrics.take() == {}


def test_a_histogram_is_cumulative() -> None:
    """Buckets rise to the count; the sum is in seconds."""
    metrics = Metrics()
    for seconds in (0.001, 0.02, 0.3, 100.0):
        metrics.observe(seconds)
    found = samples(exposition(metrics.take(), {}))
    buckets = [v for name, v in found.items() if name.startswith("raygate_request_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["raygate_request_seconds_count"] == 4
    assert found["raygate_request_seconds_sum"] == pytest.approx(100.321, rel=1e-3)


def test_a_label_cannot_break_out() -> None:
    """Quotes, backslashes and line feeds are escaped."""
    assert label('a"b\\c\nd') == 'a\\"b\\\\c d'
