"""The mixed load of the soak: wrk for what ends well or badly, and clients that leave.

What the upstream answers depends on the model that is asked for: each kind of answer is a
provider of its own, at a path of its own.
"""

import asyncio
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.upstream import COMPLETION

KINDS = ("streamed", "slow", "broken", "busy")
"""Providers that do not simply answer; each has a model of its name."""
MODELS = 20
USERS = 2_000
"""Of each team: the accounts of all of them must fit into the ledger, or it refuses the rest."""
TEAMS = 20
HOT_TEXTS = 2_000
_CHUNKS = 40

# Of a hundred requests; the rest are cache misses.
_SCRIPT = """
local keys = KEYS
local count, tally = 0, {}
function init(args) stamp = args[1]; math.randomseed(tonumber(args[2])) end
local function body(model, text, stream)
  return '{"model":"' .. model .. '","stream":' .. tostring(stream) .. ',"max_tokens":64,' ..
    '"user":"user-' .. math.random(USERS) .. '","messages":[{"role":"system","content":' ..
    '"You are a careful analyst. Answer in a few sentences and name the figures."},' ..
    '{"role":"user","content":"How did the sales of the last quarter develop, ' .. text .. '?"}]}'
end
function request()
  count = count + 1
  local dice, key = math.random(100), keys[math.random(#keys)]
  local fresh = stamp .. "-" .. count
  local model, text, stream = "model-" .. math.random(MODELS), fresh, false
  local raw
  if dice <= 30 then
    local hot = math.random(HOT_TEXTS)
    model, key, text = "model-" .. hot % MODELS + 1, keys[hot % #keys + 1], "region " .. hot
  elseif dice <= 50 then
    model, stream = "streamed", true
  elseif dice <= 53 then
    model = "broken"
  elseif dice <= 55 then
    model = "busy"
  elseif dice <= 57 then
    raw = '{"model": "model-1", "messages": "none"}'
  elseif dice <= 59 then
    key = "rg-nobody-" .. fresh
  elseif dice <= 60 then
    model = "unknown-" .. fresh
  elseif dice <= 63 then
    model = "tight"
  end
  return wrk.format("POST", nil,
    {["content-type"]="application/json", ["authorization"]="Bearer " .. key,
     ["x-raygate-max-wait"]="0.2"}, raw or body(model, text, stream))
end
function response(status) tally[status] = (tally[status] or 0) + 1; statuses = tally end
local thread
function setup(one) thread = one end
function done(summary)
  local found = {}
  for status, number in pairs(thread:get("statuses") or {}) do
    found[#found + 1] = string.format('"%d":%d', status, number)
  end
  io.write(string.format('\\nRESULT {"requests":%d,"socket_errors":%d,"statuses":{%s}}\\n',
    summary.requests,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    table.concat(found, ",")))
end
"""


def locations() -> str:
    """What the upstream needs beside its plain completion: streams, slow streams, errors."""
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks()] + ["data: [DONE]\n\n"]
    # nginx takes no word of more than 4 KB.
    parts = ["".join(events[at : at + 10]) for at in range(0, len(events), 10)]
    stream = "default_type text/event-stream; "
    stream += " ".join(f"set $part{number} '{part}';" for number, part in enumerate(parts))
    stream += f" return 200 {''.join(f'$part{number}' for number in range(len(parts)))};"
    return (
        f"location /streamed/ {{ {stream} }} location /slow/ {{ limit_rate 2k; {stream} }}"
        "location /broken/ { default_type application/json; return 500 '{}'; }"
        "location /busy/ { default_type application/json; add_header retry-after 1 always; "
        "return 429 '{}'; }"
    )


def _chunks() -> list[dict[str, Any]]:
    whole = json.loads(COMPLETION)
    words = re.findall(r"\S+\s*", whole["choices"][0]["message"]["content"])[:_CHUNKS]
    base = {key: whole[key] for key in ("id", "created", "model")}
    base["object"] = "chat.completion.chunk"
    chunks = [
        {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in words
    ]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return [*chunks, {**base, "choices": [], "usage": whole["usage"]}]


def policy() -> dict[str, Any]:
    """A policy under which every kind of request of the load meets what it is meant to meet."""
    models = {f"model-{number}": "steady" for number in range(1, MODELS + 1)}
    models |= {"tight": "steady"} | {kind: kind for kind in KINDS}
    ample = 10**9
    return {
        "models": {
            name: {
                "targets": [f"{provider}/gpt-4o-mini"],
                "price": {"input_per_mtok": 0.15, "output_per_mtok": 0.6},
            }
            for name, provider in models.items()
        },
        "limits": [
            {"name": "cluster-requests", "rate": ample, "burst": ample},
            {"name": "key-requests", "scope": "key", "rate": 100_000, "burst": 10**6},
            {"name": "user-requests", "scope": "user", "rate": 10, "burst": 100},
            {"name": "key-tokens", "scope": "key", "unit": "tokens", "rate": ample, "burst": ample},
            {"name": "key-slots", "scope": "key", "unit": "concurrent", "burst": 10_000},
            {
                "name": "tight-requests",
                "scope": "model",
                "subjects": ["tight"],
                "rate": 10,
                "burst": 10,
            },
        ],
        "budgets": [
            {"name": "cluster-daily", "amount_usd": 1e6},
            {"name": "key-monthly", "scope": "key", "period": "month", "amount_usd": 1e6},
            {"name": "user-daily", "scope": "user", "period": "day", "amount_usd": 1e6},
        ],
        "retries": {"attempts": 2, "base_s": 0.01, "cap_s": 0.02},
        "breakers": {"default": {"recovery_timeout_s": 2}},
    }


async def drive(
    url: str, clients: int, seconds: float, keys: list[str], folder: Path, seed: int
) -> Counter[str]:
    """One stretch of wrk; requests by status, and "socket" for those that got none."""
    binary = shutil.which("wrk")
    if binary is None:
        raise RuntimeError("the soak needs wrk: apt-get install wrk")
    script = folder / "soak.lua"
    words = {"KEYS": "{" + ",".join(f'"{key}"' for key in keys) + "}"}
    words |= {"USERS": str(USERS), "MODELS": str(MODELS), "HOT_TEXTS": str(HOT_TEXTS)}
    script.write_text(re.sub("|".join(words), lambda word: words[word[0]], _SCRIPT))
    command = [binary, "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s"]
    process = await asyncio.create_subprocess_exec(
        *command, "-s", str(script), url, "--", str(seed), str(seed), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    line = next(one for one in told.decode().splitlines() if one.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Counter({**found["statuses"], "socket": found["socket_errors"]})


async def leave_early(url: str, keys: list[str], ends: Counter[str]) -> None:
    """Ask for a stream or an answer and hang up before its end, for ever. ends: counted there."""
    dice = random.Random()
    at = urlsplit(url)
    while True:
        slow = dice.random() < 0.5
        body = json.dumps(
            {
                "model": "slow" if slow else f"model-{dice.randrange(1, MODELS + 1)}",
                "stream": slow,
                "max_tokens": 64,
                "user": f"user-{dice.randrange(USERS)}",
                "messages": [{"role": "user", "content": f"question {dice.random()}"}],
            }
        ).encode()
        head = (
            f"POST {at.path} HTTP/1.1\r\nhost: {at.netloc}\r\n"
            f"authorization: Bearer {dice.choice(keys)}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            writer.write(head.encode() + body)
            await writer.drain()
            try:
                async with asyncio.timeout(dice.uniform(0.002, 0.4)):
                    await reader.read(1 << 16)
                    await asyncio.sleep(0.4)
            except TimeoutError:
                pass
            writer.transport.abort()
            ends["left"] += 1
        except OSError:
            ends["unreachable"] += 1
            await asyncio.sleep(0.1)
