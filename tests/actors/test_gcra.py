"""The bucket by itself: exactness, refunds, changed limits, rows."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import gcra
from actors.gcra import Bucket
from tests.actors.rate_limiter_history import History
from tests.actors.rate_limiter_world import S


def test_a_correction_gives_back_only_what_is_still_lacking() -> None:
    """Burst 10 at 1/s: the take of t = 0 has been made good by t = 20, so nothing returns."""
    bucket = Bucket(1, S, 10, 0)
    bucket.take(0, 10, 1)
    bucket.take(20 * S, 10, 2)
    now = 20 * S + S // 10
    before = bucket.standing(now)
    bucket.close(now, 1, 10)
    assert bucket.standing(now) == before
    bucket.close(now, 2, 10)
    assert bucket.standing(now) == (10, 0)


def test_a_clock_that_steps_back_gives_nothing() -> None:
    """Neither at the earlier time nor when it is made up for; the wait counts from there."""
    bucket = Bucket(1, S, 5, 0)
    bucket.take(100 * S, 5, 1)
    assert bucket.standing(40 * S) == (0, 65 * S)
    assert bucket.wait(40 * S, 1) == 61 * S
    assert bucket.wait(100 * S, 1) == S
    assert bucket.standing(101 * S) == (1, 4 * S)


@pytest.mark.parametrize(
    ("rate", "period_ns"), [(3, 7), (7, 3), (10**9 + 7, 60 * S), (1, 86_400 * S), (999_983, S)]
)
def test_no_rate_is_rounded(rate: int, period_ns: int) -> None:
    """From an empty bucket, the n-th unit comes at exactly ceil(n · period / rate)."""
    bucket = Bucket(rate, period_ns, 5, 0)
    bucket.take(0, 5, 0)
    now = 0
    for unit in range(1, 1000):
        now += bucket.wait(now, 1) or 0
        assert now == -(-unit * period_ns // rate)
        bucket.take(now, 1, unit)


@given(data=st.data())
def test_refunds_are_as_if_the_take_had_been_smaller(data: st.DataObject) -> None:
    """I1: takes, refunds, corrections and restarts agree with a bucket that keeps all history."""
    rate, period = data.draw(st.sampled_from([(1, 10), (3, 7), (7, 3), (2, 50)]))
    burst = data.draw(st.integers(1, 20))
    debt = data.draw(st.integers(0, 5))
    bucket, history = Bucket(rate, period, burst, debt), History(rate, period, burst, debt)
    now, mark = 0, 0
    open_takes: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.integers(0, 40))
        action = data.draw(st.sampled_from(["take", "take", "close", "restart"]))
        if action == "take":
            quantity = data.draw(st.integers(1, burst))
            high = data.draw(st.booleans())
            fits = history.fits(now, quantity, high)
            assert (bucket.wait(now, quantity, high) == 0) == fits
            if fits:
                mark += 1
                bucket.take(now, quantity, mark)
                history.take(now, quantity, mark)
                open_takes[mark] = quantity
        elif action == "close" and open_takes:
            closed = data.draw(st.sampled_from(sorted(open_takes)))
            back = data.draw(st.integers(-5, open_takes.pop(closed)))
            bucket.close(now, closed, back)
            history.give_back(now, closed, back)
        else:
            row = msgspec.msgpack.decode(msgspec.msgpack.encode(bucket.dump()))
            bucket = Bucket(rate, period, burst, debt)
            bucket.restore(row)
        assert bucket.standing(now) == history.standing(now)
        assert sum(bucket.counts) <= len(open_takes)
    assert history.excess() <= 0


@given(
    st.integers(1, 50), st.integers(0, 100), st.sampled_from([(1, 10), (3, 7), (10, 1), (5, 13)])
)
def test_the_wait_is_exact(taken: int, elapsed: int, rate: tuple[int, int]) -> None:
    """I13: one nanosecond before the wait is over the quantity does not fit, and then it does."""
    bucket = Bucket(*rate, 50, 0)
    bucket.take(0, taken, 1)
    wait = bucket.wait(elapsed, 30)
    assert wait is not None
    assert bucket.wait(elapsed + wait, 30) == 0
    if wait:
        bucket = Bucket(*rate, 50, 0)
        bucket.take(0, taken, 1)
        assert bucket.wait(elapsed + wait - 1, 30) == 1


def test_a_changed_limit_keeps_the_units_that_were_used() -> None:
    """8 of 10 used: of a burst of 20 at another pace 12 are left, of one of 5 none."""
    bucket = Bucket(1, S, 10, 0)
    bucket.take(0, 8, 1)
    bucket.reshape(0, 3, 7 * S, 20, 0)
    assert bucket.standing(0) == (12, -(-8 * 7 * S // 3))
    bucket.reshape(0, 1, S, 5, 0)
    assert bucket.standing(0) == (0, 8 * S)
    assert bucket.wait(0, 5) == 8 * S
    bucket.close(0, 1, 8)
    assert bucket.standing(0) == (5, 0)


@given(st.integers(0, 10), st.integers(0, 9), st.integers(1, 12), st.integers(1, 12))
def test_a_change_there_and_back_never_gives_units(
    taken: int, elapsed: int, rate: int, period: int
) -> None:
    """Ticks that another pace cannot express are rounded against the taker."""
    bucket = Bucket(3, 7, 10, 0)
    bucket.take(0, taken, 1)
    lack = Fraction(bucket.cost * taken - min(bucket.cost * taken, elapsed * bucket.pace), 7)
    bucket.reshape(elapsed, rate, period, 10, 0)
    bucket.reshape(elapsed, 3, 7, 10, 0)
    assert Fraction(bucket.lack, bucket.cost) >= lack
    bucket.close(elapsed, 1, taken)
    assert bucket.lack >= 0


def test_ticks_beyond_64_bits_survive_a_restart() -> None:
    """A rate and period without common factor make large numbers, which a row must hold."""
    bucket = Bucket(10**9 + 7, 86_400 * S, 10**15, 0)
    bucket.take(5, 10**15, 1)
    again = Bucket(10**9 + 7, 86_400 * S, 10**15, 0)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(bucket.dump())))
    assert bucket.lack > 2**64
    assert (again.lack, again.lows) == (bucket.lack, bucket.lows)
    assert bucket.standing(5)[1] < 2**63


def test_groups_do_not_outgrow_the_outstanding_takes() -> None:
    """I12: memory and row follow what is open, not what has passed through."""
    bucket = Bucket(1, S, 10**6, 0)
    for mark in range(5000):
        bucket.take(mark, 1, mark)
        if mark >= 10:
            bucket.close(mark, mark - 10, 0)
        assert len(bucket.starts) <= 11


def test_takes_under_one_mark_end_one_after_another() -> None:
    """I12: three takes of 10 in all; the group is there until the last of them has ended."""
    bucket = Bucket(1, S, 100, 0)
    bucket.take(0, 10, 1, 3)
    bucket.take(0, 5, 2)
    bucket.close(0, 1, 4, 2)
    assert (bucket.standing(0), bucket.counts) == ((89, 11 * S), [1, 1])
    bucket.close(0, 1, 6, 1)
    assert (bucket.standing(0), bucket.counts) == ((95, 5 * S), [1])
    bucket.take(0, 5, 3, 0)
    bucket.close(0, 2, 0, 1)
    assert (bucket.standing(0), bucket.counts) == ((90, 10 * S), [])


def test_what_is_lent_is_neither_there_nor_comes_back() -> None:
    """4 of 10 lent: 6 for others, whatever time does; a changed limit has lent them too."""
    bucket = Bucket(1, S, 10, 2)
    bucket.lend(4)
    bucket.take(0, 6, 1)
    assert [bucket.wait(0, 1, high) for high in (False, True)] == [S, 0]
    assert bucket.standing(100 * S) == (6, 0)
    assert (bucket.spare(100 * S, 5), bucket.spare(100 * S, 4)) == (1, 0)
    bucket.reshape(100 * S, 2, S, 5, 0)
    assert [bucket.wait(100 * S, n) for n in (1, 2)] == [0, S // 2]
    bucket.lend(-4)
    assert bucket.standing(100 * S) == (5, 0)


@given(data=st.data())
def test_many_outstanding_takes_share_what_they_may_give_back(data: st.DataObject) -> None:
    """I1, and bounded memory: never more comes back than it would with all history kept.

    And of what would, four fifths do at the least, as long as nothing else is taken.
    """
    random = data.draw(st.randoms(use_true_random=False))
    longest, largest = data.draw(st.tuples(st.integers(0, 100), st.integers(1, 1000)))
    count = data.draw(st.integers(1, 500))
    takes = [(random.randint(0, longest), random.randint(1, largest)) for _ in range(count)]
    bucket, exact = Bucket(1, 2, 10**9, 0), Bucket(1, 2, 10**9, 0)
    now = 0
    for mark, (pause, quantity) in enumerate(takes):
        now += pause
        bucket.take(now, quantity, mark)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gcra, "_MOST_GROUPS", 10**6)
            exact.take(now, quantity, mark)
        assert len(bucket.lows) <= gcra._MOST_GROUPS
    before = bucket.lack
    order = random.sample(range(count), count) if data.draw(st.booleans()) else range(count)
    for mark in order:
        back = random.randint(0, takes[mark][1])
        bucket.close(now, mark, back)
        exact.close(now, mark, back)
        assert bucket.lack >= exact.lack
    assert (before - bucket.lack) * 5 >= (before - exact.lack) * 4
    assert bucket.counts == exact.counts == []
