"""The provider calls of this replica as the ledger must come to know them, whatever happens.

Each is written to the outbox before it is made and when it has ended; the ledger hears of
it within a batch, and only its word that it knows takes the call off the outbox. Should
this process die in between, the outbox is read by whoever finds it dead.
"""

import logging
from functools import partial

from msgspec import Raw

from actors.charges import Facts, Paid, Usage
from actors.consultant import Consultant
from actors.errors import Overloaded, SingletonUnavailable
from actors.outbox import Outbox, packed
from actors.wallet import Held, Wallet

_NOTHING = Usage()

_new = tuple.__new__
log = logging.getLogger(__name__)


class Calls:
    """See the module's docstring."""

    def __init__(self, costs: Consultant, wallet: Wallet, outbox: Outbox) -> None:
        self._costs = costs
        self._wallet = wallet
        self._outbox = outbox

    def started(self, charge_id: str, facts: Facts, worst_nanos: int, held: Held | None) -> None:
        """A call is about to be made. Raises Overloaded where that can't be written down.

        held: what was at hand for it; None where the ledger holds it under the charge's id.
        """
        how: tuple[object, ...] = ("reserved", worst_nanos)
        if held is not None:
            paid = self._paid(charge_id, facts, held, worst_nanos, worst_nanos, _NOTHING, True)
            how = ("leased", paid)
        try:
            self._outbox.started(charge_id, how)
        except OSError as error:
            log.error("no call can be started: %s", error)
            raise Overloaded(
                "This replica can't write down what it starts, so it starts nothing: its "
                f"storage says {error.strerror or error}.",
                retry_after_s=5.0,
            ) from error

    def never_was(self, charge_id: str) -> None:
        """A call that was about to be made was not: nobody can have heard of it."""
        self._outbox.ended(charge_id, ("void",))
        self._outbox.acknowledged(charge_id)

    def ended(
        self,
        charge_id: str,
        facts: Facts,
        held: Held | None,
        cost_nanos: int,
        usage: Usage,
        estimated: bool,
    ) -> None:
        """A call has ended, and cost this; the ledger hears of it soon, and surely."""
        if held is None:
            self._outbox.ended(charge_id, ("post", cost_nanos, usage, estimated))
            heard = partial(self._heard, charge_id)
            self._costs.report(heard, "post", charge_id, cost_nanos, usage, estimated)
        else:
            covered = self._wallet.release(held, cost_nanos)
            # One and the same to the outbox and to the ledger, and packed only once.
            paid = Raw(
                packed(self._paid(charge_id, facts, held, covered, cost_nanos, usage, estimated))
            )
            self._outbox.ended(charge_id, ("charge", paid))
            self._costs.report(partial(self._heard, charge_id), "charge", paid)

    def _paid(
        self,
        charge_id: str,
        facts: Facts,
        held: Held,
        covered: int,
        amount: int,
        usage: Usage,
        estimated: bool,
    ) -> Paid:
        accounts, worst_nanos, day = held
        owner = self._outbox.owner
        # The quick way to make one, as there are two to every call.
        return _new(Paid, (
            owner, charge_id, accounts, covered, amount, worst_nanos, usage, facts, estimated, day,
        ))  # fmt: skip

    def _heard(self, charge_id: str, told: object) -> None:
        if isinstance(told, SingletonUnavailable):
            # It stays on the outbox, for whoever looks after this process's end.
            return
        if isinstance(told, BaseException):
            log.error("the ledger refused charge %s: %s", charge_id, told)
        self._outbox.acknowledged(charge_id)
