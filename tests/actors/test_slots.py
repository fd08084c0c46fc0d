"""Slots by themselves."""

from actors.slots import Slots
from tests.actors.rate_limiter_world import S


def test_slots_come_back_from_their_holders_only() -> None:
    """No time frees a slot, and nobody can tell when one will be free."""
    meter = Slots(2)
    meter.take(0, 2, 1)
    assert meter.wait(10**6 * S, 1) is None
    meter.close(10**6 * S, 1, 1)
    assert meter.wait(10**6 * S, 1) == 0
    assert meter.standing(10**6 * S) == (1, 0)
