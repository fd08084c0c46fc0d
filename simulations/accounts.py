"""The gateway's books against the provider's: every call charged, and charged once.

The simulated provider writes down every call that it saw, with the charge id that the gateway
sent along; the ledger has a row per charge. Neither knows of the other, so joining them by
charge id is an independent judgement.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from deployments.providers import simulated_log
from deployments.providers.simulated_log import CallRecord
from simulations.client import Gateway, GatewayError, SimulationError
from simulations.records import Finding


class Position(NamedTuple):
    """How long both books were at some moment: rows of the ledger, bytes of the log."""

    ledger: int
    log: int


@dataclass(frozen=True, slots=True)
class Accounts:
    """Two books joined by charge id.

    calls: calls that the provider bills tokens for, so that each is due for a charge
    failed_calls: calls that it bills nothing for
    open_calls: calls that had not ended
    matched: billed calls with a charge
    uncharged: billed calls without one
    charged_twice: charge ids with more than one final amount
    without_call: charges to this run's key for calls that the provider never saw
    estimated: charges to this run's key that are still at an estimate
    tokens_ledger, tokens_provider: (input, output) of the matched calls as each side counted
        them, those at an estimate left out
    spend_nanos: nano-dollars charged to this run's key
    charge_nanos: nano-dollars of each charge to this run's key
    """

    calls: int = 0
    failed_calls: int = 0
    open_calls: int = 0
    matched: int = 0
    uncharged: int = 0
    charged_twice: int = 0
    without_call: int = 0
    estimated: int = 0
    tokens_ledger: tuple[int, int] = (0, 0)
    tokens_provider: tuple[int, int] = (0, 0)
    spend_nanos: int = 0
    charge_nanos: tuple[int, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether both books tell the same story."""
        return (
            self.uncharged == self.charged_twice == self.without_call == 0
            and self.tokens_ledger == self.tokens_provider
        )

    def finding(self) -> Finding:
        """Whether they do, in one line."""
        if self.agree:
            return Finding(
                True, f"each of the {self.calls} calls that the provider bills was charged once"
            )
        return Finding(
            False,
            f"the books differ: {self.uncharged} calls without a charge, {self.charged_twice} "
            f"charged twice, {self.without_call} charges without a call, tokens in and out "
            f"{self.tokens_ledger} in the ledger and {self.tokens_provider} at the provider",
        )


def join(ledger: Iterable[Mapping[str, Any]], calls: Iterable[CallRecord], key_id: str) -> Accounts:
    """Joins ledger rows with the provider's calls.

    ledger: in the order in which they were written
    key_id: the run's key. Other keys' charges only serve to recognise their calls.
    """
    # A correcting row carries the whole amount, so the last row of a charge is what it costs.
    charges: dict[str, Mapping[str, Any]] = {}
    final: set[str] = set()
    twice: set[str] = set()
    for row in ledger:
        charge_id = str(row["charge_id"])
        charges[charge_id] = row
        if row["state"] == "actual":
            (twice if charge_id in final else final).add(charge_id)
    # A call without a charge id did not come through the gateway.
    seen = {call.charge_id: call for call in calls if call.charge_id}
    billed = {i: call for i, call in seen.items() if call.input_tokens or call.output_tokens}
    open_calls = sum(call.outcome is None for call in seen.values())
    exact = [(charges[i], call) for i, call in billed.items() if i in final]
    ours = {i: row for i, row in charges.items() if row["key"] == key_id}
    amounts = tuple(int(row["amount_nanos"]) for row in ours.values())
    return Accounts(
        calls=len(billed),
        failed_calls=len(seen) - len(billed) - open_calls,
        open_calls=open_calls,
        matched=sum(i in charges for i in billed),
        uncharged=sum(i not in charges for i in billed),
        charged_twice=len(twice),
        without_call=sum(i not in seen for i in ours),
        estimated=sum(i not in final for i in ours),
        tokens_ledger=(
            sum(int(row["input"]) for row, _ in exact),
            sum(int(row["output"]) for row, _ in exact),
        ),
        tokens_provider=(
            sum(call.input_tokens for _, call in exact),
            sum(call.output_tokens for _, call in exact),
        ),
        spend_nanos=sum(amounts),
        charge_nanos=amounts,
    )


async def position(gateway: Gateway) -> Position:
    """How long both books are now.

    Raises SimulationError when the gateway has no simulated provider: a load of this kind must
    not be sent to one that costs money.
    """
    try:
        return Position(await gateway.ledger_length(), await gateway.log_length())
    except GatewayError as error:
        if error.status != 404:
            raise
        raise SimulationError(
            "this gateway has no simulated provider; simulations run against that one only, "
            "so that they cost nothing"
        ) from error


async def reconcile(
    gateway: Gateway, since: Position, key_id: str, patience_s: float = 15.0
) -> Accounts:
    """Joins what both books gained since a position.

    Settling happens off the response path, so this asks again, for at most `patience_s` seconds,
    while a call has no charge yet, or a book can't be read. Raises GatewayError when it still
    can't be read then.
    """
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        try:
            accounts = await _read(gateway, since, key_id)
        except GatewayError:
            # Under load a page may fail; a whole run is not thrown away for that.
            if asyncio.get_running_loop().time() > deadline:
                raise
        else:
            settled = accounts.uncharged == accounts.open_calls == accounts.estimated == 0
            if settled or asyncio.get_running_loop().time() > deadline:
                return accounts
        await asyncio.sleep(0.5)


async def _read(gateway: Gateway, since: Position, key_id: str) -> Accounts:
    # The provider's book first: what it holds by now must be, or come, in the ledger.
    events = [orjson.dumps(event) async for event in gateway.provider_log(since.log)]
    ledger = [row async for row in gateway.ledger(since.ledger)]
    return join(ledger, simulated_log.join(events), key_id)
