from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import prompt_registry
from actors.errors import Conflict, InvalidRequest, NotFound, Overloaded, RaygateError
from actors.mechanism import Gone, Row
from actors.prompt_registry import PromptRegistry


def spec(template: str = "Say {{ word }}", **more: Any) -> dict[str, Any]:
    """A small valid spec."""
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    return {"type": "greeting", "template": template, "inputs_schema": schema} | more


def test_versions_count_from_one_and_never_change() -> None:
    """Each new content is a new number; the old one stays as it was."""
    registry = PromptRegistry()
    assert registry.register(1, "a", "hello", spec()) == 1
    first = registry.get(2, "a", "hello").versions[0]
    assert registry.register(3, "a", "hello", spec("Shout {{ word }}")) == 2
    assert registry.get(4, "a", "hello").versions[0] == first


def test_same_content_is_the_same_version_whatever_came_between() -> None:
    """Replicas that register the built-in templates at each start make no new versions."""
    registry = PromptRegistry()
    registry.register(1, "a", "hello", spec())
    registry.register(2, "a", "hello", spec("Shout {{ word }}"))
    registry.take_changes()
    again = spec(temperature=None, description="")
    again["inputs_schema"] = dict(reversed(again["inputs_schema"].items()))
    assert registry.register(3, "b", "hello", again) == 1
    assert registry.take_changes().rows == []


def test_label_moves_and_tells_where_it_was() -> None:
    """Moving a label back to what it said is a rollback; None takes it away."""
    registry = PromptRegistry()
    registry.register(1, "a", "hello", spec())
    registry.register(2, "a", "hello", spec("Shout {{ word }}"))
    assert registry.label(3, "a", "hello", "production", 2) is None
    assert registry.label(4, "a", "hello", "production", 1) == 2
    assert registry.get(5, "a", "hello").labels == {"production": 1}
    assert registry.label(6, "a", "hello", "production", None) == 1
    assert registry.get(7, "a", "hello").labels == {}


def test_view_is_the_whole_template_and_changes_with_versions_and_labels() -> None:
    """A replica chooses versions from the view alone."""
    registry = PromptRegistry()
    registry.register(1, "a", "hello", spec())
    assert registry.take_changes().views == {"hello"}
    registry.label(2, "a", "hello", "production", 1)
    assert registry.take_changes().views == {"hello"}
    assert registry.view("hello", 3) == registry.get(3, "a", "hello")
    assert registry.view("other", 3) is None
    assert [*registry.view_keys()] == ["hello"]


def test_a_view_does_not_change_under_its_reader() -> None:
    """What was handed out is a copy, not the registry's own labels."""
    registry = PromptRegistry()
    registry.register(1, "a", "hello", spec())
    seen = registry.view("hello", 1)
    assert seen is not None
    registry.label(2, "a", "hello", "production", 1)
    assert seen.labels == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", None),
        ("type", "no spaces"),
        ("template", None),
        ("template", ""),
        ("template", 5),
        ("template", "x" * (prompt_registry.MAX_SOURCE_CHARS + 1)),
        ("template", "\ud800"),
        ("system", ["a"]),
        ("inputs_schema", []),
        ("inputs_schema.a", {"a": 2**70}),
        ("inputs_schema.a", {"a": float("nan")}),
        ("inputs_schema.a", {"a": {1, 2}}),
        ("model", ""),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("temperature", 2.5),
        ("temperature", "warm"),
        ("fallback", 1),
        ("colour", "red"),
    ],
)
def test_bad_field_is_refused_by_path_before_anything_changes(field: str, value: Any) -> None:
    """The error's `param` is the path of the field."""
    registry = PromptRegistry()
    with pytest.raises(InvalidRequest) as caught:
        registry.register(1, "a", "hello", spec(**{field.partition(".")[0]: value}))
    assert caught.value.param == field
    assert registry.take_changes().rows == []


@pytest.mark.parametrize("id", ["", "a/b", "-a", "x" * 101, None])
def test_template_id_must_fit_in_a_path(id: Any) -> None:
    """Ids are parts of addresses and of row keys."""
    with pytest.raises(InvalidRequest):
        PromptRegistry().register(1, "a", id, spec())


def test_unknown_templates_and_versions_are_not_found() -> None:
    """The code says that it was the prompt."""
    registry = PromptRegistry()
    with pytest.raises(NotFound) as caught:
        registry.get(1, "a", "hello")
    assert caught.value.code == "prompt_not_found"
    registry.register(2, "a", "hello", spec())
    with pytest.raises(NotFound):
        registry.label(3, "a", "hello", "production", 2)


def test_registry_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates, versions, labels and characters all have an end."""
    monkeypatch.setattr(prompt_registry, "MAX_TEMPLATES", 1)
    monkeypatch.setattr(prompt_registry, "MAX_VERSIONS", 2)
    monkeypatch.setattr(prompt_registry, "MAX_LABELS", 1)
    registry = PromptRegistry()
    registry.register(1, "a", "hello", spec())
    with pytest.raises(Overloaded):
        registry.register(2, "a", "other", spec())
    registry.register(3, "a", "hello", spec("two"))
    with pytest.raises(Overloaded):
        registry.register(4, "a", "hello", spec("three"))
    registry.label(5, "a", "hello", "production", 1)
    with pytest.raises(Conflict):
        registry.label(6, "a", "hello", "staging", 1)
    monkeypatch.setattr(prompt_registry, "MAX_TOTAL_CHARS", 0)
    monkeypatch.setattr(prompt_registry, "MAX_VERSIONS", 3)
    with pytest.raises(Overloaded):
        registry.register(7, "a", "hello", spec("four"))


def test_reads_are_not_kept_for_resends() -> None:
    """Only small replies of changes are stored with a batch."""
    registry = PromptRegistry()
    version = registry.register(1, "a", "hello", spec())
    assert registry.keep(version) == 1
    assert registry.keep(registry.get(2, "a", "hello")) == Gone()
    assert registry.keep(registry.list(2, "a")) == Gone()


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["a1", "b2"]),
        st.one_of(
            st.sampled_from(["one", "two", "three"]),
            st.tuples(st.sampled_from(["production", "test"]), st.none() | st.integers(1, 3)),
        ),
    ),
    max_size=30,
)


@given(COMMANDS)
def test_loaded_rows_equal_the_state_that_lived(commands: list[tuple[str, Any]]) -> None:
    """I8: all rows ever handed out, loaded afresh, are the registry that lived."""
    lived = PromptRegistry()
    rows: dict[tuple[str, str], object] = {}
    for now, (id, what) in enumerate(commands):
        try:
            if isinstance(what, str):
                lived.register(now, "a", id, spec(what, temperature=0.5))
            else:
                lived.label(now, "a", id, *what)
        except RaygateError:
            assert lived.take_changes().rows == []
        rows.update({(row.table, row.key): row.value for row in lived.take_changes().rows})
    fresh = PromptRegistry()
    fresh.load(
        Row(table, key, msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
        for (table, key), value in rows.items()
        if value is not None
    )
    assert fresh.list(0, "a") == lived.list(0, "a")
    assert fresh.status(0, "a") == lived.status(0, "a")
    assert {*fresh.view_keys()} == {*lived.view_keys()}
    for id in lived.view_keys():
        assert fresh.view(id, 0) == lived.view(id, 0)
