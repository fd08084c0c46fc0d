"""Who is due when."""

from hypothesis import given
from hypothesis import strategies as st

from actors.timetable import Timetable

ids = st.sampled_from("abcde")
steps = st.one_of(
    st.tuples(st.just("set"), ids, st.integers(0, 20)),
    st.tuples(st.just("cancel"), ids, st.just(0)),
    st.tuples(st.just("due"), st.just(""), st.integers(0, 20)),
)


@given(st.lists(steps))
def test_it_agrees_with_a_plain_dictionary(script: list[tuple[str, str, int]]) -> None:
    """Set, reset, cancelled and taken out in any order: the earliest is due, once."""
    table, plain = Timetable(), dict[str, int]()
    for step, id, at_ns in script:
        if step == "set":
            table.set(id, at_ns, ord(id))
            plain[id] = at_ns
        elif step == "cancel":
            table.cancel(id)
            plain.pop(id, None)
        else:
            expected = min(
                (other for other in plain if plain[other] <= at_ns),
                key=lambda other: (plain[other], other),
                default=None,
            )
            assert table.due(at_ns) == expected
            plain.pop(expected or "", None)
        assert table.next_ns() == min(plain.values(), default=None)


def test_cancelled_times_do_not_pile_up() -> None:
    """Bounded: memory follows what is set, not what ever was."""
    table = Timetable()
    table.set("first", 0)
    for at_ns in range(10_000):
        table.set("other", at_ns + 1)
        table.cancel("other")
    assert len(table._heap) < 100
