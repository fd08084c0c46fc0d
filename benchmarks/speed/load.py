"""wrk as the load generator: it costs little beside what it measures."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.programs import need, version
from benchmarks.speed.subjects import Ask

# Each request asks something that nobody has asked before: a cache miss.
_SCRIPT = """
local thread_number = 0
function setup(thread) thread:set("number", thread_number); thread_number = thread_number + 1 end
function init(args)
  count = 0
  stamp = args[1]
end
function request()
  count = count + 1
  local ask = FRESH and (stamp .. "-" .. number .. "-" .. count) or "the same every time"
  local body = '{"model":"MODEL","max_tokens":64,"messages":[{"role":"system","content":' ..
    '"You are a careful analyst. Answer in a few sentences and name the figures."},' ..
    '{"role":"user","content":"Request ' .. ask .. ': how did the sales of the last quarter ' ..
    'develop in each region, and what follows from it for the plan of the next year?"}]}'
  return wrk.format("POST", nil, {HEADERS}, body)
end
function done(summary, latency, requests)
  io.write(string.format('\\nRESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"not_2xx":%d,"socket_errors":%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement. per_s: requests answered per second; p50_ms, p99_ms: latency."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def measure(
    ask: Ask, clients: int, seconds: float, folder: Path, stamp: str, fresh: bool = True
) -> Round:
    """Drive it with that many connections, each waiting for its answer. Raises Missing."""
    binary = need("wrk", "wrk")
    headers = {"content-type": "application/json", **ask.headers}
    listed = ",".join(f"[{json.dumps(name)}]={json.dumps(headers[name])}" for name in headers)
    script = folder / "load.lua"
    script.write_text(
        _SCRIPT.replace("FRESH", "true" if fresh else "false")
        .replace("MODEL", ask.model)
        .replace("HEADERS", listed)
    )
    command = [binary, "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s"]
    command += ["-s", str(script), ask.url, "--", stamp]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(one for one in told.stdout.splitlines() if one.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Round(
        requests=found["requests"],
        per_s=found["requests"] / (found["duration_us"] / 1e6),
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        failed=found["not_2xx"] + found["socket_errors"],
    )


def versions() -> dict[str, str]:
    """Those of the load and of the upstream for plain calls. Raises Missing."""
    return {
        "nginx": version(need("nginx", "nginx-light"), "-v"),
        "wrk": version(need("wrk", "wrk"), "-v"),
    }
