"""The judge: what the evidence of a cell says about the promises.

Here are those about single requests and calls: each charged once (I3), none made twice for one
question (I5), none failed for our reasons (I9), none waited too long (I11), nothing left over
(I12). Those about sums are in `capacity.py`.
"""

from collections import Counter, defaultdict
from itertools import pairwise

from benchmarks.strict import evidence, terms
from benchmarks.strict.capacity import billed, capacity
from benchmarks.strict.evidence import JUST_NS, Asked, Evidence
from benchmarks.strict.findings import Findings
from deployments.providers.simulated_log import CallRecord

GRACE_S = 1.0
"""Beyond the promised wait, and beyond what the slowest request took that had no limit to wait
for: on a machine whose cores are all busy, or whose processes are killed, all take their time."""
SHORTEST_WAIT_S = 0.25
"""A request that will not wait may still wait for what others were lent."""
FORGOTTEN_NS = 30 * 10**9
"""So long after a node's loss there may be requests from before it."""
_MOST_EXAMPLES = 5


def judge(found: Evidence) -> Findings:
    """Everything."""
    findings = Findings({"requests": len(found.asked), "calls": len(found.calls)})
    findings.figures |= {"kills": len(found.kills), "settled_s": round(found.settled_s, 2)}
    findings.add(capacity(found))
    findings.add(charges(found))
    findings.add(doubles(found))
    findings.add(failures(found))
    findings.add(waits(found))
    findings.add(leaks(found))
    return findings


def charges(found: Evidence) -> Findings:
    """I3: the ledger against the provider's log, joined by charge id."""
    findings = Findings()
    wrong: list[str] = []
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    for row in found.rows:
        rows[row["charge_id"]].append(row)
    calls: dict[str, CallRecord] = {}
    with_node = 0
    for call in found.calls:
        if call.charge_id is None or call.charge_id in calls:
            wrong.append(f"call {call.id}: its charge id {call.charge_id} is not its own")
        else:
            calls[call.charge_id] = call
        if call.charge_id not in rows and found.in_flight_at_kill(call, "node"):
            # Its outbox is gone. The ledger has spent all that its replica had on loan.
            with_node += 1
        elif call.charge_id not in rows:
            wrong.append(f"call {call.id} ({call.model}, {call.outcome}) was not charged")
    alone = 0
    for id, mine in rows.items():
        states = [row["state"] for row in mine]
        last, known = mine[-1], calls.get(id)
        if states not in (["actual"], ["estimated"], ["estimated", "actual"]):
            wrong.append(f"charge {id} was made {states}")
        elif known is None:
            alone += last["state"] == "estimated"
            if last["state"] != "estimated":
                wrong.append(f"charge {id} ({last['model']}) of a call that nobody saw")
        elif last["state"] == "estimated":
            if known.outcome == "ok" and not found.in_flight_at_kill(known):
                wrong.append(f"charge {id} is an estimate of a call that ended well")
        elif last["amount_nanos"] != billed(known):
            wrong.append(f"charge {id}: {last['amount_nanos']} nanos for {billed(known)}")
    cut = sum(one.end == evidence.CLOSED for one in found.asked)
    findings.breach("I3", len(wrong), "; ".join(wrong[:_MOST_EXAMPLES]))
    if alone > cut:
        findings.breach("I3", alone - cut, f"{alone} estimates without a call, {cut} were cut off")
    estimated = sum(mine[-1]["state"] == "estimated" for mine in rows.values())
    findings.figures |= {"wrong_charges": len(wrong), "estimated": estimated}
    findings.figures |= {"estimates_without_call": alone, "cut_off": cut}
    findings.figures["lost_with_node"] = with_node
    return findings


def doubles(found: Evidence) -> Findings:
    """I5: calls for a question that another call had answered, or was about to."""
    findings = Findings()
    asked: dict[str, list[CallRecord]] = defaultdict(list)
    for call in found.calls:
        asked[f"{call.model} {call.question}"].append(call)
    doubled = [
        f"{call.model} {call.question} again {(call.started_ns - before.started_ns) / 1e6:.0f} ms "
        "after it"
        for calls in asked.values()
        for before, call in pairwise(calls)
        if not _needed_again(found, before, call)
    ]
    findings.breach("I5", len(doubled), "; ".join(doubled[:_MOST_EXAMPLES]))
    findings.figures["doubled"] = len(doubled)
    return findings


def _needed_again(found: Evidence, before: CallRecord, call: CallRecord) -> bool:
    """Whether the first of two calls for one question left no answer behind."""
    ended_ns = before.ended_ns
    if ended_ns is not None and ended_ns <= call.started_ns and before.outcome != "ok":
        return True
    if found.in_flight_at_kill(before):
        return True
    # With its node a cache forgets who fetches, too: he may have waited for the ledger since.
    if any(0 <= before.started_ns - at <= FORGOTTEN_NS for at in found.killed("node")):
        return True
    # What was cached goes with the cache; who fetches goes on, and is waited for.
    return ended_ns is not None and any(
        ended_ns - JUST_NS <= at <= call.started_ns for at in found.killed("response_cache")
    )


def failures(found: Evidence) -> Findings:
    """I9: requests that ended as no request of their tenant should."""
    findings = Findings()
    tenants = {tenant.name: tenant for tenant in terms.TENANTS}
    failed: Counter[str] = Counter()
    words: dict[str, str] = {}
    excused = 0
    for one in found.asked:
        if one.end == evidence.ANSWERED or one.end in tenants[one.tenant].refusals:
            continue
        if one.end == evidence.LEFT and found.cell.trouble in ("leaving", "chaos"):
            continue
        if _killed_with_its_replica(found, one):
            excused += 1
        else:
            failed[f"{one.tenant}: {one.end}"] += 1
            words.setdefault(f"{one.tenant}: {one.end}", one.words)
    for what, count in failed.most_common():
        findings.breach("I9", count, f"{what} ({words[what][:200]})" if words[what] else what)
    findings.figures |= {"failed": failed.total(), "excused": excused}
    findings.figures["ends"] = dict(sorted(Counter(one.end for one in found.asked).items()))
    return findings


def _killed_with_its_replica(found: Evidence, one: Asked) -> bool:
    """Whether a request was in flight on a replica that was killed, or found none at all.

    Or on its way through the ingress, when that was.
    """
    if one.end not in (evidence.CLOSED, evidence.INGRESS):
        return False
    for at in found.killed("replica", "haproxy"):
        if one.sent_ns - JUST_NS <= at <= one.ended_ns:
            return True
        if found.cell.replicas == 1 and at <= one.sent_ns <= _back(found, at):
            return True
    return False


def _back(found: Evidence, killed_ns: int) -> int:
    """When the only replica was there again: the first answer to who asked after its death."""
    return min(
        (
            one.ended_ns
            for one in found.asked
            if one.sent_ns > killed_ns + JUST_NS
            and one.end not in (evidence.CLOSED, evidence.INGRESS, evidence.LEFT)
        ),
        default=found.ended_ns,
    )


def waits(found: Evidence) -> Findings:
    """I11: the longest wait for a limit against what was promised."""
    findings = Findings()
    slowest_s = found.slowest_s()
    late = [
        (one.wait_s - max(one.promised_s, SHORTEST_WAIT_S), one)
        for one in found.asked
        if one.wait_s is not None and one.promised_s is not None
    ]
    worst = max(late, key=lambda each: each[0], default=None)
    too_late = sum(excess_s > GRACE_S + slowest_s for excess_s, _ in late)
    findings.figures["slowest_s"] = round(slowest_s, 3)
    if worst is not None:
        wait_s, promised_s = worst[1].wait_s or 0.0, worst[1].promised_s
        findings.figures |= {"longest_wait_s": round(wait_s, 3), "promised_s": promised_s}
        text = f"{worst[1].tenant} waited {wait_s:.2f} s ({worst[1].end}) for {promised_s:g} s"
        findings.breach("I11", too_late, f"{text}; without limits at most {slowest_s:.2f} s")
    return findings


def leaks(found: Evidence) -> Findings:
    """I12: what was held although nobody asked any more."""
    findings = Findings()
    left = ", ".join(f"{count} {name}" for name, count in found.held.items())
    findings.breach("I12", len(found.held), f"still held: {left}")
    findings.figures |= {"leaks": dict(found.held)}
    return findings
