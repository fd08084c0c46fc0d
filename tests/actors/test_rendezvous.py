from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rendezvous import limit_key, shard_of

KEYS = [limit_key("key-requests", f"key-{number}") for number in range(20_000)]


@given(st.text(max_size=50), st.integers(1, 16))
def test_with_one_more_host_a_key_stays_or_moves_to_the_new_one(key: str, shards: int) -> None:
    """No key moves among those that were there before."""
    assert 0 <= shard_of(key, shards) < shards
    assert shard_of(key, shards + 1) in (shard_of(key, shards), shards)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_one_more_host_takes_its_share_and_no_more(shards: int) -> None:
    """Of 20,000 keys about one in K + 1 moves, and every host has about as many."""
    moved = sum(shard_of(key, shards + 1) != shard_of(key, shards) for key in KEYS)
    share = len(KEYS) / (shards + 1)
    # Five standard deviations of a fair draw.
    assert abs(moved - share) < 5 * share**0.5
    held = Counter(shard_of(key, shards + 1) for key in KEYS)
    assert all(abs(count - share) < 5 * share**0.5 for count in held.values())


def test_every_process_agrees() -> None:
    """Known answers: another hash, or the order of hosts, would move keys at an upgrade."""
    assert [shard_of(key, 3) for key in KEYS[:12]] == [int(shard) for shard in "011202120222"]


def test_a_key_of_any_characters_has_a_shard() -> None:
    """Half of a surrogate pair is refused by the limiter, not on the way to it."""
    assert shard_of("\ud800", 2) in (0, 1)
