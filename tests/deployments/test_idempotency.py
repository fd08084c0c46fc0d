"""`idempotency-key`: a request that comes again is charged once."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.host import Host
from actors.registry import SINGLETONS
from tests.replies import Seen, calls, events, eventually
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio

UNCACHED = {"x_raygate_cache": "no-cache, no-store"}


async def keyed(
    stack: Stack, name: str, text: str = "hello", key: str | None = None, **more: Any
) -> tuple[int, Any, dict[str, str]]:
    """A chat completion under an idempotency key, which no cache answers."""
    headers = {"idempotency_key": name, **UNCACHED}
    headers |= {word: more.pop(word) for word in list(more) if word.startswith("x_")}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}
    return await stack.call("POST", "/v1/chat/completions", body, key, **headers)


async def charges(stack: Stack, seen: Seen) -> list[str]:
    """The charges of the calls since then, one each in the ledger."""
    await stack.settled()
    made = [call.charge_id for call in await seen.since(stack)]
    rows = Counter(row["charge_id"] for row in await stack.ledger())
    assert all(rows[id] == 1 for id in made), "I3"
    return made


async def held(stack: Stack, what: str) -> int:
    """How many first requests are "running", or how many repeats wait as "followers"."""
    count: int = (await stack.services.cache.ask("status"))["repeats"][what]
    return count


async def restart(stack: Stack, folder: Path) -> None:
    """A new host of the response cache on the old one's rows."""
    line = stack.lines["response_cache"]
    line.host.close()
    line.host = Host(SINGLETONS["response_cache"], str(folder / "response_cache.sqlite"), "test")


async def test_a_hundred_at_once_are_one(stack: Stack) -> None:
    """One provider call, one charge, one reply; all but the first say that they are replayed."""
    await stack.knobs(ttft_s=0.3)
    seen = await Seen.now(stack)
    found = await asyncio.gather(*(keyed(stack, "hundred") for _ in range(100)))
    assert {status for status, _, _ in found} == {200}
    assert len({body["id"] for _, body, _ in found}) == 1
    assert sum("idempotency-replayed" in headers for _, _, headers in found) == 99
    assert len({headers["x-request-id"] for _, _, headers in found}) == 100
    assert len(await charges(stack, seen)) == 1


async def test_a_repeat_gets_the_reply_afterwards(stack: Stack) -> None:
    """The same body, what its headers say of it, no cost; nothing is taken from limits."""
    await stack.policy(limits=[{"name": "few", "scope": "key", "rate": 1, "burst": 1}])
    key = await stack.key(team="team-a")
    seen = await Seen.now(stack)
    _, first, told = await keyed(stack, "afterwards", key=key)
    status, again, headers = await keyed(stack, "afterwards", key=key)
    assert (status, again) == (200, first)
    for name in ("content-type", "x-raygate-cache", "x-raygate-target", "x-raygate-attempts"):
        assert headers[name] == told[name]
    assert (headers["idempotency-replayed"], "idempotency-replayed" in told) == ("true", False)
    assert headers["x-raygate-cost-usd"] == "0.000000000"
    trace = await stack.trace(headers["x-request-id"])
    assert (trace["outcome"], trace["cost_nanos"]) == ("replayed", 0)
    assert len(await charges(stack, seen)) == 1


async def test_another_body_is_a_mismatch(stack: Stack) -> None:
    """422 idempotency_mismatch, also while the first runs, and no call."""
    seen = await Seen.now(stack)
    await stack.knobs(ttft_s=0.3)
    first = asyncio.create_task(keyed(stack, "mismatch"))
    await eventually(lambda: held(stack, "running"))
    for _ in range(2):
        status, body, headers = await keyed(stack, "mismatch", "other words")
        assert (status, body["error"]["code"]) == (422, "idempotency_mismatch")
        assert headers["x-should-retry"] == "false"
        assert (await first)[0] == 200
    assert len(await charges(stack, seen)) == 1


async def test_tenants_and_endpoints_do_not_meet(stack: Stack) -> None:
    """The same key of another team, of a key without one, or at another endpoint is its own."""
    seen = await Seen.now(stack)
    others = [await stack.key(team="team-b"), await stack.key(), await stack.key()]
    found = [await keyed(stack, "shared name", key=key) for key in (None, *others)]
    found.append(await stack.call("POST", *prompt(), idempotency_key="shared name"))
    assert all("idempotency-replayed" not in headers for _, _, headers in found)
    colleague = await stack.key(team="team-a")
    assert (await keyed(stack, "shared name", key=colleague))[1] == found[0][1]
    assert len(await charges(stack, seen)) == 5


async def test_a_colleague_is_shown_no_model_that_it_may_not_use(stack: Stack) -> None:
    """A reply of the team's goes only to keys that may use its model."""
    await keyed(stack, "not for all")
    key = await stack.key(team="team-a", models=["gpt-4o"])
    status, body, _ = await keyed(stack, "not for all", key=key)
    assert (status, body["error"]["code"]) == (403, "not_allowed")


def prompt(text: str = "sales fell", template: str = "business_analysis_v1") -> tuple[str, Any]:
    """Where to execute a template, and with what."""
    return f"/v1/prompts/{template}/execute", {"inputs": {"data": text}}


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_too(stack: Stack, stream: bool) -> None:
    """The stored result, id and cost included; another template is another request."""
    seen = await Seen.now(stack)
    path, body = prompt()
    body["stream"] = stream
    name = f"prompt {stream}"
    headers = {"idempotency_key": name, **UNCACHED}
    first, again = [await stack.call("POST", path, body, **headers) for _ in range(2)]
    assert again[:2] == first[:2]
    assert again[2]["idempotency-replayed"] == "true"
    other = path.replace("business_analysis_v1", "another_v1")
    assert (await stack.call("POST", other, body, **headers))[0] == 422
    assert len(await charges(stack, seen)) == 1


async def test_streams_are_replayed_whole(stack: Stack) -> None:
    """A repeat in mid-stream waits for the end; it and a later one get every event again."""
    await stack.knobs(tokens_per_s=100.0)
    seen = await Seen.now(stack)
    first = asyncio.create_task(keyed(stack, "stream", stream=True, max_tokens=20))
    await eventually(lambda: held(stack, "running"))
    found = [await keyed(stack, "stream", stream=True, max_tokens=20) for _ in range(2)]
    _, text, told = await first
    assert events(text)[-1][1] == "[DONE]"
    for status, again, headers in found:
        assert (status, again) == (200, text)
        assert headers["content-type"] == told["content-type"]
        assert "x-raygate-cost-usd" not in headers
    assert len(await charges(stack, seen)) == 1


async def test_a_stream_that_broke_off_is_not_paid_for_again(stack: Stack) -> None:
    """It was charged: a repeat gets what there was, with its error at the end."""
    await stack.knobs(reset_rate=1.0, reset_at="middle", seed=3)
    seen = await Seen.now(stack)
    _, text, _ = await keyed(stack, "broken", stream=True)
    await stack.knobs(reset_rate=0.0)
    _, again, headers = await keyed(stack, "broken", stream=True)
    assert "error" in events(text)[-1][1]
    assert (again, headers["idempotency-replayed"]) == (text, "true")
    assert len(await charges(stack, seen)) == 1


async def test_an_error_that_cost_nothing_frees_the_key(stack: Stack) -> None:
    """A repeat runs anew."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(error_rate=1.0)
    status, _, _ = await keyed(stack, "failed")
    assert status == 502
    await stack.knobs(error_rate=0.0)
    status, _, headers = await keyed(stack, "failed")
    assert (status, "idempotency-replayed" in headers) == (200, False)


async def test_an_error_that_was_charged_is_the_reply(stack: Stack) -> None:
    """A call that was lost half-way may be billed: its repeat is not another call."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(reset_rate=1.0, reset_at="middle")
    seen = await Seen.now(stack)
    status, body, _ = await keyed(stack, "lost")
    await stack.knobs(reset_rate=0.0)
    again = await keyed(stack, "lost")
    assert (status, body["error"]["code"]) == (502, "provider_error")
    assert again[:2] == (status, body)
    assert again[2]["x-should-retry"] == "false"
    assert len(await charges(stack, seen)) == 1


async def test_followers_of_a_failure_run_one_after_another(stack: Stack) -> None:
    """When the first fails without a charge the next one runs, until one answers them all."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(error_rate=1.0, error_after_s=0.3)
    first = asyncio.create_task(keyed(stack, "heirs"))
    await eventually(lambda: held(stack, "running"))
    rest = [asyncio.create_task(keyed(stack, "heirs")) for _ in range(5)]

    async def all_follow() -> bool:
        return await held(stack, "followers") == 5

    await eventually(all_follow)
    seen = await Seen.now(stack)
    await stack.knobs(error_rate=0.0)
    found = await asyncio.gather(*rest)
    assert (await first)[0] == 502
    assert [status for status, _, _ in found] == [200] * 5
    assert sum("idempotency-replayed" not in headers for _, _, headers in found) == 1
    assert len(await charges(stack, seen)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_first_whose_client_leaves_goes_on(stack: Stack, stream: bool) -> None:
    """Its reply is there for the repeat, which is what its client comes back for."""
    await stack.knobs(tokens_per_s=100.0, output_tokens=20)
    seen = await Seen.now(stack)
    name = f"gone {stream}"
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": name}]}
    body["stream"] = stream
    headers = {"idempotency_key": name, **UNCACHED}
    async with aiohttp.ClientSession() as session:
        asked = session.post(
            stack.url + "/v1/chat/completions", json=body, headers=stack.headers(**headers)
        )
        asking = asyncio.ensure_future(asked)
        await eventually(lambda: held(stack, "running"))
        if stream:
            reply = await asking
            await reply.content.readany()
            reply.close()
        asking.cancel()
    assert await held(stack, "running") == 1
    status, found, told = await stack.call("POST", "/v1/chat/completions", body, **headers)
    assert (status, told["idempotency-replayed"]) == (200, "true")
    assert events(found)[-1][1] == "[DONE]" if stream else found["choices"]
    assert len(await charges(stack, seen)) == 1


async def test_a_follower_that_leaves_takes_nothing_with_it(stack: Stack) -> None:
    """Neither the first nor another follower notices, and nobody is left waiting."""
    await stack.knobs(ttft_s=0.4)
    first = asyncio.create_task(keyed(stack, "left"))
    await eventually(lambda: held(stack, "running"))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(0.1)) as hasty:
        message = {"role": "user", "content": "hello"}
        with pytest.raises(TimeoutError):
            await hasty.post(
                stack.url + "/v1/chat/completions",
                json={"model": "gpt-4o-mini", "messages": [message]},
                headers=stack.headers(idempotency_key="left", **UNCACHED),
            )
    assert (await keyed(stack, "left"))[1] == (await first)[1]
    assert await held(stack, "followers") == await held(stack, "running") == 0


async def test_a_follower_out_of_time_is_told_so(stack: Stack) -> None:
    """408 for it alone; the first goes on."""
    await stack.knobs(ttft_s=0.5)
    first = asyncio.create_task(keyed(stack, "slow"))
    await eventually(lambda: held(stack, "running"))
    status, body, _ = await keyed(stack, "slow", x_raygate_timeout="0.1")
    assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
    assert (await first)[0] == 200
    assert await held(stack, "followers") == 0


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_keys_are_bounded(stack: Stack, name: str) -> None:
    """1 to 255 characters; anything else is a 400."""
    status, body, _ = await keyed(stack, name)
    assert (status, body["error"]["param"]) == (400, "idempotency-key")


async def test_a_reply_too_large_to_be_kept_is_a_conflict_afterwards(stack: Stack) -> None:
    """409, not to be retried, and no second call."""
    await stack.policy(cache={"max_entry_bytes": 100})
    seen = await Seen.now(stack)
    assert (await keyed(stack, "large"))[0] == 200
    status, body, headers = await keyed(stack, "large")
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert headers["x-should-retry"] == "false"
    assert len(await charges(stack, seen)) == 1


async def test_after_a_restart_it_is_a_conflict(tmp_path: Path) -> None:
    """Replies are lost with the singleton, keys are not; a first that ran is not run again."""
    async with running(tmp_path, ttft_s=0.5) as stack:
        await keyed(stack, "before")
        first = asyncio.create_task(keyed(stack, "during"))
        await eventually(lambda: held(stack, "running"))
        follower = asyncio.create_task(keyed(stack, "during"))
        await eventually(lambda: held(stack, "followers"))
        await restart(stack, tmp_path)
        status, body, headers = await keyed(stack, "before")
        assert (status, body["error"]["code"]) == (409, "conflict")
        assert headers["x-should-retry"] == "false"
        assert (await first)[:2] == (await follower)[:2] == (await keyed(stack, "during"))[:2]
        assert len(await calls(stack)) == 2
