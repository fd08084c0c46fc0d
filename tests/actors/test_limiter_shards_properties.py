"""Takes over several shards under any order of batches, watches, cancels and refusals."""

import random
from contextlib import closing
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from actors.limits import LOW, NORMAL, Admitted
from actors.rendezvous import limit_key, shard_of
from tests.actors.limiter_shards_world import Asked, World, over
from tests.actors.rate_limiter_world import requests, slots, tokens

SHARDS = 3
LIMITS: list[dict[str, Any]] = [
    requests("a", rate=4, burst=3),
    requests("b", rate=2, burst=3, scope="team"),
    tokens("c", rate=20, burst=30, scope="key"),
    slots("d", burst=2, scope="model"),
]
KEYS = [("a", ""), ("b", "z"), ("c", "y"), ("d", "w")]
BURSTS = {limit["name"]: limit["burst"] for limit in LIMITS}
PATIENCE_S = 3.0

quantities = st.fixed_dictionaries(
    {},
    optional={key: st.integers(1, 20) if key[0] == "c" else st.integers(1, 2) for key in KEYS},
).filter(bool)


def test_the_limits_of_these_tests_are_on_all_shards() -> None:
    """Else they would prove less than they say."""
    assert {shard_of(limit_key(*key), SHARDS) for key in KEYS} == set(range(SHARDS))


class Spread(RuleBasedStateMachine):
    """One process; each batch and each watch of each shard takes as long as it takes."""

    takes: Bundle[Asked] = Bundle("takes")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(SHARDS, *LIMITS)
        self.running: list[Asked] = []
        self.used: list[tuple[Admitted, Any]] = []

    @rule(
        target=takes,
        wanted=quantities,
        wait=st.sampled_from([0.0, 0.5, PATIENCE_S]),
        priority=st.sampled_from([NORMAL, NORMAL, LOW]),
    )
    def ask(self, wanted: dict[tuple[str, str], int], wait: float, priority: int) -> Asked:
        asked = self.world.ask([(*key, units) for key, units in wanted.items()], wait, priority)
        self.running.append(asked)
        return asked

    @rule(asked=consumes(takes))
    def cancel(self, asked: Asked) -> None:
        if asked in self.running:
            self.running.remove(asked)
            self.world.cancel(asked)

    @rule(asked=takes)
    def settle(self, asked: Asked) -> None:
        if asked in self.running and asked.future.done():
            self.running.remove(asked)
            reply = asked.future.result()
            if isinstance(reply, Admitted):
                self.used.append((reply, asked.takes))
                self.world.end(asked, "settle", None)

    @rule(shard=st.integers(0, SHARDS - 1))
    def deliver(self, shard: int) -> None:
        self.world.do(self.world.desks[shard].deliver)

    @rule(shard=st.integers(0, SHARDS - 1))
    def hear(self, shard: int) -> None:
        self.world.do(self.world.desks[shard].hear)

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.25, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def slots_are_never_exceeded(self) -> None:
        """Those that are admitted and not ended, by what their process knows."""
        admitted = [
            asked.takes
            for asked in self.running
            if asked.future.done() and isinstance(asked.future.result(), Admitted)
        ]
        for key in KEYS:
            if key[0] == "d":
                used = sum(take[2] for takes in admitted for take in takes if take[:2] == key)
                assert used <= BURSTS["d"], key

    def teardown(self) -> None:
        """I11: everybody is answered within his patience. I1. I12, and then all is full again."""
        with closing(self.world) as world:
            self.check_the_end(world)

    def check_the_end(self, world: World) -> None:
        for _ in range(round(PATIENCE_S / 0.25) + 4):
            world.settle()
            world.pass_time(0.25)
        world.settle()
        assert all(asked.future.done() for asked in self.running)
        for asked in list(self.running):
            self.settle(asked)
        assert over(self.used, LIMITS) == []
        world.settle()
        status = world.ask_now("status")
        assert (status["holds"], status["waiting"], world.limiter.pending) == (0, 0, 0), status
        world.pass_time(60)
        assert {key: world.left(*key) for key in KEYS} == {key: BURSTS[key[0]] for key in KEYS}


TestSpread = Spread.TestCase


@given(st.data())
def test_while_time_stands_still_what_is_gone_is_what_was_admitted(data: st.DataObject) -> None:
    """I7: of each limit exactly the units of those who were told that they are admitted."""
    with closing(World(SHARDS, *LIMITS)) as world:
        kept: list[Asked] = []
        for _ in range(data.draw(st.integers(1, 8))):
            wanted = data.draw(quantities)
            asked = world.ask(
                [(*key, units) for key, units in wanted.items()],
                data.draw(st.sampled_from([0.0, PATIENCE_S])),
                data.draw(st.sampled_from([LOW, NORMAL])),
            )
            for shard in data.draw(st.lists(st.integers(0, SHARDS - 1), max_size=6)):
                world.do(world.desks[shard].deliver)
                world.do(world.desks[shard].hear)
            if data.draw(st.booleans()):
                world.cancel(asked)
            else:
                kept.append(asked)
        gone = dict.fromkeys(KEYS, 0)
        for asked in kept:
            if isinstance(world.now_of(asked), Admitted):
                for limit, subject, units in asked.takes:
                    gone[limit, subject] += units
        left = {key: BURSTS[key[0]] - units for key, units in gone.items()}
        assert {key: world.left(*key) for key in KEYS} == left


@given(seed=st.integers(0, 2**32))
def test_under_saturating_demand_no_window_has_more_than_its_limit(seed: int) -> None:
    """I1 by stamps, I12; long runs in which replies, watches and time come as they may."""
    dice = random.Random(seed)
    with closing(World(SHARDS, *LIMITS[:2])) as world:
        under_way: list[Asked] = []
        used: list[tuple[Admitted, Any]] = []
        for _ in range(120):
            what = dice.random()
            desk = dice.choice(world.desks)
            if what < 0.3:
                wanted = dice.choice([KEYS[:1], KEYS[1:2], KEYS[:2], KEYS[:2]])
                takes = [(*key, dice.randint(1, 3)) for key in wanted]
                under_way.append(world.ask(takes, wait=dice.choice([0.0, 1.0])))
            elif what < 0.6:
                world.do(desk.deliver)
            elif what < 0.8:
                world.do(desk.hear)
            elif what < 0.95:
                world.pass_time(dice.choice([0.1, 0.5]))
            elif under_way:
                world.cancel(under_way.pop(dice.randrange(len(under_way))))
        for _ in range(8):
            world.settle()
            world.pass_time(0.25)
        for asked in under_way:
            reply = world.now_of(asked)
            if isinstance(reply, Admitted):
                used.append((reply, asked.takes))
                world.end(asked, "settle", None)
        assert over(used, LIMITS) == []
        world.settle()
        assert world.ask_now("status")["holds"] == 0
