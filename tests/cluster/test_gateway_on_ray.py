"""What holds for the whole cluster, whichever replica answers: judged by the provider's log."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import aiohttp
import pytest

from benchmarks.client import Client
from benchmarks.on_ray import Gateway, Setting, running
from benchmarks.strict.windows import most_above, overlapping
from deployments.config import parse_policy
from deployments.providers.simulated_log import CallRecord
from tests.cluster.load import Crowd, at_once, mixed
from tests.replies import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

AT_ONCE = 200
REPLICAS = 4
BURST, RATE = 50, 20
PROBES = 3
STEPS = [
    *("trace", "prompt", "breakers", "limits", "cache"),
    *("admission", "provider", "settle", "answer"),
]
# Prompts that name no model take the first.
MODELS = ("gpt-4o-mini", "limited", "paid", "shared", "recovering", "killed", "mixed")
PRICE = {"input_per_mtok": 1.0, "output_per_mtok": 4.0}
# All output, and 100 tokens of it are 0.02 dollars.
ROUND_PRICE = {"input_per_mtok": 0.0, "output_per_mtok": 200.0}
AMPLE = 10**9
NEVER = {"failure_threshold": 0, "min_calls": 100_000, "timeout_s": 60}
RECOVERING = {
    "failure_threshold": 3,
    "recovery_timeout_s": 2,
    "recovery_factor": 1,
    "jitter": 0,
    "success_threshold": PROBES,
}
BUSY = ("killed", "mixed")
POLICY: dict[str, Any] = {
    "models": {
        name: {
            "targets": [f"simulated/{name}"],
            "price": ROUND_PRICE if name == "paid" else PRICE,
            "cache": name != "limited",
            "max_output_tokens": 100,
        }
        for name in MODELS
    },
    "limits": [
        {"name": "few", "scope": "team", "subjects": ["limited"], "rate": RATE, "burst": BURST},
        *(
            {"name": f"{team}-{unit}", "scope": "team", "subjects": [team], "unit": unit, **most}
            for team in BUSY
            for unit, most in (
                ("requests", {"rate": AMPLE, "burst": AMPLE}),
                ("tokens", {"rate": AMPLE, "burst": AMPLE}),
                ("concurrent", {"burst": 60}),
            )
        ),
    ],
    "budgets": [
        {"name": "day", "amount_usd": 1_000},
        {
            "name": "one-dollar",
            "scope": "team",
            "subjects": ["paid"],
            "period": "total",
            "amount_usd": 1,
        },
        {"name": "months", "scope": "team", "period": "month", "amount_usd": 1_000},
    ],
    "breakers": {
        "default": NEVER,
        "targets": {"simulated/recovering": RECOVERING},
    },
    "retries": {"attempts": 3, "base_s": 0.05, "cap_s": 0.2},
}
SINGLETONS = ("circuit_breaker", "rate_limiter", "response_cache", "cost_tracker")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four replicas, one provider, one policy for all of these tests."""
    parse_policy(POLICY)
    setting = Setting(REPLICAS, MODELS)
    with running(tmp_path_factory.mktemp("gateway"), POLICY, setting) as found:
        yield found


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    """As many connections as a test has clients; the provider as it was at first."""
    connections = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connections, timeout=patience) as session:
        found = Client(gateway.url, gateway.admin, session)
        await found.knobs()
        yield found
        await found.knobs()


def minters(calls: Iterable[CallRecord]) -> set[str]:
    """The replicas that made these calls: each begins its charge ids with a word of its own."""
    return {str(call.charge_id)[:16] for call in calls}


def served_all(before: dict[str, int], after: dict[str, int]) -> bool:
    """Whether each replica was handed requests in between (`Gateway.served`)."""
    return len(after) == REPLICAS and all(after[name] > before[name] for name in after)


def charges(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last row of each charge; AssertionError where a charge was made twice."""
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = last.get(row["charge_id"])
        assert before is None or (before["state"], row["state"]) == ("estimated", "actual"), row
        last[row["charge_id"]] = row
    return last


def billed(call: CallRecord) -> int:
    """What a call costs by the provider's own count, nano-dollars."""
    return call.input_tokens * 1_000 + call.output_tokens * 4_000


async def today_nanos(client: Client) -> int:
    """What the whole cluster has spent today."""
    summary = await client.get("/admin/v1/costs/summary")
    spent: int = summary["today_nanos"]
    return spent


async def test_a_budget_is_exact_over_all_replicas(gateway: Gateway, client: Client) -> None:
    """I2: of 100 at once that cost 0.02 each, a dollar pays for exactly 50."""
    key = await client.key(team="paid")
    await client.knobs(ttft_s=0.5, fill_max_tokens=True)
    before = gateway.served()
    answers = await asyncio.gather(
        *(client.chat(f"cents {n}", "paid", key, max_tokens=100) for n in range(100))
    )
    codes = Counter(
        body["error"]["code"] if status != 200 else "200" for status, body, _ in answers
    )
    assert codes == {"200": 50, "insufficient_quota": 50}
    assert {status for status, _, _ in answers} == {200, 429}
    calls = gateway.calls("paid")
    assert len(calls) == 50
    assert served_all(before, gateway.served())
    await client.settled()
    rows = charges(await client.ledger("paid"))
    assert set(rows) == {call.charge_id for call in calls}
    assert {row["amount_nanos"] for row in rows.values()} == {20_000_000}
    (budget,) = [
        one
        for one in (await client.get("/admin/v1/budgets"))["data"]
        if one["name"] == "one-dollar"
    ]
    assert (budget["posted_nanos"], budget["available_nanos"]) == (10**9, 0)


async def test_identical_requests_are_one_call(gateway: Gateway, client: Client) -> None:
    """I5: 100 at once over four replicas ask the provider once, and all get its answer."""
    key = await client.key(team="shared")
    await client.knobs(ttft_s=1.0)
    before = gateway.served()
    answers = await asyncio.gather(
        *(client.chat("the same", "shared", key, temperature=0) for _ in range(100))
    )
    after = gateway.served()
    assert Counter(status for status, _, _ in answers) == {200: 100}
    assert len({body["choices"][0]["message"]["content"] for _, body, _ in answers}) == 1
    assert served_all(before, after)
    words = Counter(headers["x-raygate-cache"] for _, _, headers in answers)
    assert words["MISS"] == 1
    assert words["WAIT"] + words["HIT"] == 99
    assert len(gateway.calls("shared")) == 1
    await client.settled()
    assert len(await client.ledger("shared")) == 1


async def test_a_limit_is_exact_over_all_replicas(gateway: Gateway, client: Client) -> None:
    """I1, I13: in no window more than 50 + 20·W are admitted, over a minute at least 95 % of it."""
    # One half takes no for an answer and comes back, the other stands in line.
    keys = [await client.key(team="limited", max_wait_s=wait_s) for wait_s in (0, 2)]

    async def once(number: int) -> str:
        status, _, _ = await client.chat("again", "limited", keys[number % 2], max_tokens=1)
        if status == 429:
            await asyncio.sleep(0.3)
        return str(status)

    crowd = Crowd(AT_ONCE, once)
    await asyncio.sleep(61)
    ends = await crowd.stop()
    calls = gateway.calls("limited")
    assert set(ends) == {"200", "429"}, ends
    assert len(calls) == len({call.charge_id for call in calls}) == ends["200"]
    assert len(minters(calls)) == REPLICAS
    stamps = [call.admitted_ns or 0 for call in calls]
    assert min(stamps) > 0
    assert most_above(RATE, ((stamp, 1) for stamp in stamps)) <= BURST * 10**9
    within = [stamp for stamp in stamps if stamp <= min(stamps) + 60 * 10**9]
    assert len(within) >= 0.95 * (BURST + 60 * RATE)


async def test_few_probe_a_provider_that_recovers(gateway: Gateway, client: Client) -> None:
    """I4: with 200 clients at it, at most three probes are in flight, of whatever generation."""
    key, target = await client.key(team="recovering"), "simulated/recovering"

    async def once(number: int) -> str:
        status, _, _ = await client.chat(f"are you back {number}", "recovering", key)
        if status != 200:
            await asyncio.sleep(0.3)
        return str(status)

    async def is_(*states: str) -> bool:
        return await client.breaker(target) in states

    await client.knobs(outage=True, error_after_s=0.3)
    crowd = Crowd(AT_ONCE, once)
    await eventually(lambda: is_("open"), 60.0)
    # Several times it is tried again, in vain.
    await asyncio.sleep(8)
    await client.knobs(ttft_s=0.5)
    await eventually(lambda: is_("closed"), 60.0)
    await asyncio.sleep(1)
    ends = await crowd.stop()
    assert set(ends) == {"200", "502", "503"}, ends
    calls = gateway.calls("recovering")
    probes = [call for call in calls if call.probe]
    assert {probe.outcome for probe in probes} == {"ok", "error"}
    assert overlapping(probes) == PROBES
    assert (await client.provider_stats("recovering"))["max_probes_in_flight"] == PROBES
    began = min(probe.started_ns for probe in probes)
    recovered = min(probe.ended_ns or 0 for probe in probes if probe.outcome == "ok")
    assert all(call.probe for call in calls if began <= call.started_ns <= recovered)
    await client.settled()


async def test_killing_each_singleton_fails_nobody(gateway: Gateway, client: Client) -> None:
    """I3, I8, I9: requests ride through each kill -9, are charged once, and no cent is lost."""
    key = await client.key(team="killed")
    await client.knobs(ttft_s=0.05, tokens_per_s=1000)

    async def once(number: int) -> str:
        text = f"ride {number if number % 4 else number // 40}"
        stream = number % 3 == 0
        status, body, _ = await client.chat(
            text, "killed", key, stream=stream, max_tokens=30, x_raygate_timeout="15"
        )
        whole = not stream or body.endswith("data: [DONE]\n\n")
        return str(status) if whole else f"{status} broken off: {body[-300:]}"

    async def kill(singleton: str) -> None:
        before = await asyncio.to_thread(gateway.pid, singleton)
        assert before is not None
        os.kill(before, signal.SIGKILL)

        async def is_back() -> bool:
            pid = await asyncio.to_thread(gateway.pid, singleton)
            return pid is not None and pid != before

        await eventually(is_back, 60.0)

    spent_before = await today_nanos(client)
    crowd = Crowd(24, once)
    for singleton in SINGLETONS:
        await asyncio.sleep(2)
        await kill(singleton)
    await asyncio.sleep(2)
    ends = await crowd.stop()
    assert set(ends) == {"200"}, ends
    await client.settled()
    calls = {call.charge_id: call for call in gateway.calls("killed")}
    assert len(calls) == len(gateway.calls("killed")) > 100
    rows = charges(await client.ledger("killed"))
    assert set(rows) == set(calls)
    for id, row in rows.items():
        assert (row["state"], row["amount_nanos"]) == ("actual", billed(calls[id]))
    spent = await today_nanos(client)
    assert spent - spent_before == sum(billed(call) for call in calls.values())
    await kill("cost_tracker")
    assert await today_nanos(client) == spent


async def test_the_ledger_equals_the_providers_log(gateway: Gateway, client: Client) -> None:
    """I3, I12: after 5,000 requests of all kinds both books agree, and nothing is held."""
    key = await client.key(team="mixed")
    await client.knobs(
        ttft_s=0.05,
        tokens_per_s=500,
        spread=0.5,
        error_rate=0.06,
        throttle_rate=0.01,
        retry_after_s=0.05,
        reset_rate=0.03,
        cached_tokens=0,
        seed=7,
    )
    spent_before = await today_nanos(client)
    dice = random.Random(11)
    began = time.monotonic()
    ends = Counter(
        await at_once((mixed(client, key, "mixed", dice) for _ in range(5_000)), AT_ONCE)
    )
    took_s = time.monotonic() - began
    await client.settled()
    assert set(ends) <= {"200", "502", "503", "left", "broke off"}, ends
    assert min(ends["200"] - 3_000, ends["left"] - 300, ends["broke off"]) > 0, ends
    calls = {call.charge_id: call for call in gateway.calls("mixed")}
    outcomes = Counter(call.outcome for call in calls.values())
    assert len(calls) == len(gateway.calls("mixed"))
    assert set(outcomes) == {"ok", "error", "throttled", "reset"}, outcomes
    rows = charges(await client.ledger("mixed"))
    assert set(rows) == set(calls)
    for id, row in rows.items():
        if row["state"] == "actual":
            told = (calls[id].input_tokens, calls[id].output_tokens)
            assert (row["input"], row["output"]) == told, (row, calls[id])
            assert row["amount_nanos"] == billed(calls[id])
        else:
            assert calls[id].outcome == "reset", (row, calls[id])
    spent = await today_nanos(client) - spent_before
    assert spent == sum(row["amount_nanos"] for row in rows.values())
    assert took_s < 90, took_s


async def test_an_executed_prompt_shows_all_nine_steps(client: Client) -> None:
    """Its trace, asked of any replica, has each step in order with its time."""
    key = await client.key(team="prompts")
    body = {"inputs": {"data": "sales fell in March"}}
    status, found, headers = await client.call(
        "POST", "/v1/prompts/business_analysis_v1/execute", body, key
    )
    assert (status, found["status"], found["reason"]) == (200, "success", None)
    assert headers["x-request-id"] == found["id"]
    traces = await asyncio.gather(
        client.trace(found["trace_id"]), *(client.trace(headers["x-request-id"]) for _ in range(20))
    )
    assert all(trace == traces[0] for trace in traces)
    assert [step["name"] for step in traces[0]["steps"]] == STEPS
    assert all(step["duration_ns"] >= 0 for step in traces[0]["steps"])


async def test_metrics_are_sums_of_the_whole_cluster(gateway: Gateway, client: Client) -> None:
    """One scrape of any replica counts every call that the provider saw, of every model."""
    key = await client.key(team="metrics")
    await at_once((client.chat(f"count {n}", "shared", key) for n in range(100)), 50)
    await client.settled()
    seen = Counter(f"simulated/{call.model}" for call in gateway.calls(*MODELS))

    async def all_agree() -> bool:
        scrapes = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        return all(called(text) == seen for text in scrapes)

    await eventually(all_agree, 20.0)


def called(metrics: str) -> "Counter[str]":
    """Provider calls by target, in Prometheus text."""
    counted: Counter[str] = Counter()
    for line in metrics.splitlines():
        if line.startswith('raygate_provider_calls_total{target="'):
            counted[line.split('"')[1]] += int(line.rpartition(" ")[2])
    return counted


async def test_a_bad_policy_leaves_the_last_good_one_in_force(
    gateway: Gateway, client: Client
) -> None:
    """Redeployed with a mistake, every replica stays, serves as before and says what is wrong.

    So does a replica that is started meanwhile, in the place of one that was killed.
    """
    key = await client.key(team="redeployed")

    async def pictures() -> list[Any]:
        return list(await asyncio.gather(*(client.get("/health") for _ in range(40))))

    async def served_by() -> set[str]:
        before = made = len(gateway.calls("shared"))
        found: set[str] = set()
        # While Serve changes a replica's policy, its ingress leaves that one out.
        for _ in range(20):
            requests = (client.chat(f"who {n}", "shared", key) for n in range(made, made + 60))
            assert {status for status, _, _ in await at_once(requests, 60)} == {200}
            made = len(gateway.calls("shared"))
            found = minters(gateway.calls("shared")[before:])
            if len(found) == REPLICAS:
                break
            await asyncio.sleep(0.5)
        return found

    async def all_complain() -> bool:
        problems = [picture["policy"].get("problem", "") for picture in await pictures()]
        return all("user_config.limits.0.rate" in problem for problem in problems)

    async def all_well() -> bool:
        return all("problem" not in picture["policy"] for picture in await pictures())

    (revision,) = {picture["policy"]["revision"] for picture in await pictures()}
    before = await served_by()
    assert len(before) == REPLICAS
    bad = {**POLICY, "limits": [{"name": "few", "rate": 0, "burst": 1}]}
    await asyncio.to_thread(gateway.do, "deploy", bad)
    await eventually(all_complain, 30.0)
    for picture in await pictures():
        assert (picture["status"], picture["policy"]["revision"]) == ("degraded", revision)
    assert await served_by() == before
    living = gateway.replicas()
    assert len(living) == REPLICAS
    os.kill(min(living), signal.SIGKILL)

    async def replaced() -> bool:
        now = gateway.replicas()
        return len(now) == REPLICAS and now != living

    await eventually(replaced, 60.0)
    after = await served_by()
    assert len(after) == REPLICAS
    assert len(after & before) == REPLICAS - 1
    await asyncio.to_thread(gateway.do, "deploy", POLICY)
    await eventually(all_well, 30.0)
    assert await served_by() == after
