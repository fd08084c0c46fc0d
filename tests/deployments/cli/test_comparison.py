"""What is different between two configurations."""

from deployments.cli.comparison import Change, changes


def test_lists_of_named_things_are_compared_by_name() -> None:
    """An item that was put before the others changes nothing about them."""
    before = {"limits": [{"name": "a", "rate": 1}, {"name": "b", "rate": 2}], "ttl_s": 1}
    after = {
        "limits": [{"name": "c", "rate": 9}, {"name": "b", "rate": 2}, {"name": "a", "rate": 3}],
        "targets": ["x", "y"],
    }
    assert changes(before, after) == [
        Change("limits.a.rate", 1, 3),
        Change("limits.c.name", None, "c"),
        Change("limits.c.rate", None, 9),
        Change("targets", None, ["x", "y"]),
        Change("ttl_s", 1, None),
    ]
    assert [str(change)[0] for change in changes(before, after)] == ["~", "+", "+", "+", "-"]
    assert str(Change("a", True, ["x", "y"])) == "~ a: true → [x, y]"


def test_equal_configurations_differ_in_nothing() -> None:
    """Tuples and lists are the same thing, and so are a null and an absence."""
    assert changes({"a": ({"name": "x"},), "b": None}, {"a": [{"name": "x"}]}) == []
