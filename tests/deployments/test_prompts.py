import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidRequest, NotFound, PromptInputsInvalid
from actors.experiment_manager import Variant
from actors.prompt_registry import PromptRegistry, Template, TemplateVersion, draft
from deployments import prompts
from deployments.prompt_inputs import MAX_INPUT_VALUES

SCHEMA = {"type": "object", "properties": {"x": {}, "items": {}}}


def version(template: str, schema: dict[str, Any] = SCHEMA, **more: Any) -> TemplateVersion:
    """A checked version of this source."""
    spec = prompts.check(
        {"id": "t", "type": "test", "template": template, "inputs_schema": schema} | more
    )
    return draft(spec.pop("id"), 1, spec)


def text(template: str, **inputs: Any) -> str:
    """What the user message says."""
    return prompts.render(version(template), inputs)[-1]["content"]


def builtin() -> dict[str, TemplateVersion]:
    """The built-in templates by id."""
    return {spec.pop("id"): draft("b", 1, spec) for spec in prompts.load_builtin()}


# --- built in ---


def test_builtin_templates_are_the_promised_three() -> None:
    """Ids and types are part of the outside contract."""
    assert {id: one.type for id, one in builtin().items()} == {
        "business_analysis_v1": "business_analysis",
        "customer_support_v1": "customer_support",
        "urgent_analysis_v1": "urgent_analysis",
    }


@pytest.mark.parametrize("id", ["business_analysis_v1", "urgent_analysis_v1"])
@pytest.mark.parametrize("data", ["Q3 sales fell by 4 %", {"q3": [1, 2]}, [1], 4.5])
def test_builtin_analysis_takes_text_or_any_json(id: str, data: Any) -> None:
    """`data` is the only input needed, and it reaches the model as JSON or as it is."""
    system, user = prompts.render(builtin()[id], {"data": data})
    assert system["role"] == "system"
    assert (data if isinstance(data, str) else str(data).replace("'", '"')) in user["content"]


def test_builtin_templates_register_once() -> None:
    """Every replica may register them at its start."""
    registry = PromptRegistry()
    for _ in range(2):
        for spec in prompts.load_builtin():
            assert registry.register(0, "a", spec.pop("id"), spec) == 1


def test_fallback_text_is_found_by_type_not_by_the_first_word_of_the_id() -> None:
    """`business_analysis_v1` gets the text of `business_analysis`, not the default one."""
    fallbacks = prompts.load_fallbacks()
    texts = {prompts.fallback_text(one, fallbacks) for one in builtin().values()}
    assert len(texts) == 3
    assert fallbacks["default"] not in texts
    one = builtin()["business_analysis_v1"]
    assert prompts.fallback_text(one, fallbacks) == fallbacks["business_analysis"]


def test_fallback_text_of_the_template_wins_and_unknown_types_get_the_default() -> None:
    """Own text, then the type's, then the default."""
    fallbacks = {"default": "later", "test": "soon"}
    assert prompts.fallback_text(version("a", fallback="mine"), fallbacks) == "mine"
    assert prompts.fallback_text(version("a"), fallbacks) == "soon"
    assert prompts.fallback_text(version("a", type="other"), fallbacks) == "later"


# --- choosing ---

TEMPLATE = Template(
    "t", tuple(version(str(n))._replace(version=n) for n in (1, 2, 3)), {"beta": 1, "production": 2}
)


@pytest.mark.parametrize(
    ("chosen", "arguments"),
    [
        (2, {}),
        (3, {"version": 3}),
        (1, {"label": "beta"}),
        (3, {"version": 3, "label": "beta"}),
        (3, {"variant": Variant("v", 1, version=3)}),
        (1, {"variant": Variant("v", 1, label="beta")}),
        (2, {"variant": Variant("v", 1, model="m")}),
        (1, {"version": 1, "variant": Variant("v", 1, version=3)}),
    ],
)
def test_version_is_the_callers_then_the_variants_then_production(
    chosen: int, arguments: dict[str, Any]
) -> None:
    """A table of who wins."""
    assert prompts.choose_version(TEMPLATE, **arguments).version == chosen


def test_without_a_production_label_the_newest_answers() -> None:
    """A template works from its first version on."""
    assert prompts.choose_version(TEMPLATE._replace(labels={})).version == 3


@pytest.mark.parametrize(("param", "value"), [("version", 9), ("label", "gone")])
def test_unknown_version_or_label_is_not_found(param: str, value: Any) -> None:
    """With the prompt's code, and the field that named it."""
    with pytest.raises(NotFound) as caught:
        prompts.choose_version(TEMPLATE, **{param: value})
    assert (caught.value.code, caught.value.param) == ("prompt_not_found", param)


# --- rendering ---


@pytest.mark.parametrize(
    ("template", "inputs", "expected"),
    [
        ("{{ x }}", {"x": "ä{{ 7 * 7 }}<b>"}, "ä{{ 7 * 7 }}<b>"),
        ("{{ x }}", {"x": {"a": [1, None, "ü"]}}, '{"a": [1, null, "ü"]}'),
        ("{% if x is defined %}{{ x }}{% else %}none{% endif %}", {}, "none"),
        ("{{ x | default('-') }}", {}, "-"),
        (
            "{% for i in items %}{{ loop.index }}={{ i }};{% endfor %}",
            {"items": [5, 6]},
            "1=5;2=6;",
        ),
        ("{% for k, v in x.items() %}{{ k }}{{ v }}{% endfor %}", {"x": {"a": 1}}, "a1"),
        ("{{ items | map('upper') | join(', ') }}", {"items": ["a", "b"]}, "A, B"),
        ("{{ items | map(attribute='n') | join }}", {"items": [{"n": 1}, {"n": 2}]}, "12"),
        ("{{ x ~ '-' ~ items }}", {"x": 1, "items": [2]}, "1-[2]"),
        ("{{ x + 1 }} {{ x * 2 }} {{ 'a' + 'b' }}", {"x": 2}, "3 4 ab"),
        ("{{ x | tojson(indent=1) }}", {"x": [1]}, "[\n 1\n]"),
        ("{{ x | replace('a', 'bb') | indent(2) }}", {"x": "a\na"}, "bb\n  bb"),
        ("{{ x in ['a', 'b'] }}", {"x": "a"}, "True"),
        ("{% raw %}{{ x }}{% endraw %}", {}, "{{ x }}"),
        ("{{ x | round(1) }}", {"x": 1.26}, "1.3"),
    ],
)
def test_language_has_what_prompts_need(
    template: str, inputs: dict[str, Any], expected: str
) -> None:
    """Known answers for each part of the language that is left."""
    assert text(template, **inputs) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_inputs_are_data_never_template(data: str) -> None:
    """Any text comes out as it went in, whatever it looks like."""
    assert text("{{ x }}", x=data) == data


def test_messages_are_system_and_user() -> None:
    """An empty system source makes no message."""
    assert prompts.render(version("u {{ x }}", system="s {{ x }}"), {"x": 1}) == [
        {"role": "system", "content": "s 1"},
        {"role": "user", "content": "u 1"},
    ]
    assert [one["role"] for one in prompts.render(version("u"), {})] == ["user"]


RUNAWAYS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "{{ range(1000000000) | list }}",
    "{{ 'a' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 1 | round(1000000000, 'floor') }}",
    "{{ x | indent(1000000000) }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
    "{% set a = 99999999999 %}" + "{% set a = a * a %}" * 40 + "{{ a }}",
    "{{ range(100000) | map('replace', '1', x) | list | length }}",
    "{{ range(100000) | map(attribute='q', default=x) | map('upper') | list | length }}",
    "{{ x | replace('', x) }}",
    "{% for i in range(100000) %}{{ x }}{% endfor %}",
    "{% for i in range(100000) %}{% if x | upper == 'A' %}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("template", RUNAWAYS)
def test_runaway_template_is_stopped_soon(template: str) -> None:
    """Loops, ranges and doublings end in an error within a second of processor time."""
    one = version(template)
    before = time.thread_time()
    with pytest.raises(PromptInputsInvalid):
        prompts.render(one, {"x": "a" * 100_000})
    assert time.thread_time() - before < 1


WORDS = st.sampled_from(
    [
        "{{",
        "}}",
        "{%",
        "%}",
        "for",
        "i",
        "in",
        "x",
        "if",
        "else",
        "endif",
        "endfor",
        "set",
        "a",
        "=",
        "items",
        "~",
        "+",
        "*",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "|",
        "join",
        "map",
        "upper",
        "'s'",
        "9",
        "range",
        "is",
        "defined",
        "not",
        "loop",
        "index",
        "tojson",
        "replace",
        "-",
        ":",
        "get",
    ]
)


@given(st.lists(WORDS, max_size=25), st.sampled_from(["s", 3, None, [1, "b"], {"a": [2]}]))
def test_any_text_is_rendered_or_refused_never_a_crash(words: list[str], x: Any) -> None:
    """Nonsense made of the language's words ends in an error of ours, or in messages."""
    source = "{{ x }}" + " ".join(words)
    try:
        text(source, x=x, items=["p", "q"])
    except InvalidRequest:
        return


def test_rendered_size_is_bounded() -> None:
    """A million characters, and no more."""
    assert len(text("{{ x }}", x="a" * 1_000_000)) == 1_000_000
    with pytest.raises(PromptInputsInvalid, match="much text"):
        text("{{ x }}", x="a" * 1_000_001)
    with pytest.raises(PromptInputsInvalid, match="1000000 characters"):
        text("{{ x }}{{ x }}", x="a" * 600_000)


@pytest.mark.parametrize(
    "template",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ x['__class__'] }}",
        "{{ x | map(attribute='__class__') | list }}",
        "{{ x.upper }}",
        "{{ self }}",
    ],
)
def test_insides_of_python_are_out_of_reach(template: str) -> None:
    """The sandbox refuses; nothing of an object's inside is printed."""
    with pytest.raises(PromptInputsInvalid):
        text(template, x=["a"])
    with pytest.raises(PromptInputsInvalid):
        text(template, x="a")


def test_compiled_templates_are_cached_by_content() -> None:
    """The same content, from another registry's reply, is not compiled again."""
    prompts.render(version("cached {{ x }}"), {"x": 1})
    before = prompts._prepared.cache_info()
    prompts.render(version("cached {{ x }}")._replace(version=7), {"x": 2})
    after = prompts._prepared.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)
    assert after.maxsize == 256


# --- inputs ---

FORM = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "tone": {"enum": ["warm", "cold"], "default": "warm"},
        "items": {"type": "array", "items": {"type": "object", "required": ["n"]}},
    },
}


@pytest.mark.parametrize(
    ("param", "inputs"),
    [
        ("inputs.name", {}),
        ("inputs.name", {"name": 5}),
        ("inputs.name", {"name": "x"}),
        ("inputs.name", {"name": None}),
        ("inputs.tone", {"name": "Bo", "tone": "hot"}),
        ("inputs.items[1].n", {"name": "Bo", "items": [{"n": 1}, {}]}),
        ("inputs.nmae", {"name": "Bo", "nmae": "Bo"}),
        ("inputs", ["name"]),
        ("inputs", {"name": "Bo", "items": [{"n": 1}] * MAX_INPUT_VALUES}),
    ],
)
def test_bad_input_is_named_by_its_path(param: str, inputs: Any) -> None:
    """422 with `param` saying which input it was."""
    with pytest.raises(PromptInputsInvalid) as caught:
        prompts.render(version("{{ name }}{{ tone }}", FORM), inputs)
    assert caught.value.param == param
    assert caught.value.status == 422


def test_default_stands_in_for_a_missing_input() -> None:
    """The schema's `default` is used."""
    one = version("{{ name }} {{ tone }}", FORM)
    assert prompts.render(one, {"name": "Bo"})[0]["content"] == "Bo warm"


def test_input_that_the_template_needs_but_the_schema_does_not_is_named() -> None:
    """A missing optional input is the caller's error, not a crash."""
    with pytest.raises(PromptInputsInvalid) as caught:
        text("Hello {{ x }}")
    assert caught.value.param == "inputs.x"


def test_errors_do_not_quote_inputs() -> None:
    """A secret in a wrong input does not come back in the message."""
    with pytest.raises(PromptInputsInvalid) as caught:
        prompts.render(version("{{ name }}", FORM), {"name": ["hunter2" * 1000]})
    assert "hunter2" not in str(caught.value)


def test_deeply_nested_input_is_an_error_not_a_crash() -> None:
    """Depth is bounded before anything recurses into it."""
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(PromptInputsInvalid):
        text("{{ x }}", x=deep)


# --- specs and files ---

EXPLODING = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


def one_input(schema: Any) -> dict[str, Any]:
    """A change of the spec: this schema for its one input."""
    return {"inputs_schema": {"type": "object", "properties": {"x": schema}}}


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("id", {"id": "a b"}),
        ("type", {"type": None}),
        ("template", {"template": "{{ x"}),
        ("template", {"template": "{{ y }}"}),
        ("template", {"template": "{% include 'x' %}"}),
        ("template", {"template": "{% import 'x' as y %}"}),
        ("template", {"template": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"}),
        ("template", {"template": "{% for i in x recursive %}{{ loop(x) }}{% endfor %}"}),
        ("template", {"template": "{% set a = namespace(b=1) %}"}),
        ("template", {"template": "{% filter upper %}a{% endfilter %}"}),
        ("template", {"template": "{% set a %}{{ x }}{% endset %}"}),
        ("template", {"template": "{{ 9 ** 999999999 }}"}),
        ("template", {"template": "{{ [x, x] }}"}),
        ("template", {"template": "{{ {'a': x} }}"}),
        ("template", {"template": "{{ x.format(1) }}"}),
        ("template", {"template": "{{ x() }}"}),
        ("template", {"template": "{{ lipsum() }}"}),
        ("template", {"template": "{{ x | pprint }}"}),
        ("template", {"template": "{{ x is magic }}"}),
        ("template", {"template": "{{ x }}" * 6000}),
        ("template", {"template": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"}),
        ("system", {"system": "{{ y }}"}),
        ("inputs_schema.type", {"inputs_schema": {"properties": {"x": {}}}}),
        ("inputs_schema.properties.x.pattern", one_input({"pattern": "(a+)+"})),
        ("inputs_schema.$ref", {"inputs_schema": {"$ref": "file:///etc/passwd"}}),
        ("inputs_schema.properties.x.type", one_input({"type": "text"})),
        ("inputs_schema.properties.x.anyOf", one_input({"anyOf": 1})),
        ("inputs_schema.properties", {"inputs_schema": {"properties": [1]}}),
        ("colour", {"colour": "red"}),
    ],
)
def test_bad_spec_is_refused_by_path(param: str, change: dict[str, Any]) -> None:
    """Before a template is registered, every fault in it is found and located."""
    good = {"id": "t", "type": "test", "template": "{{ x }}", "inputs_schema": SCHEMA}
    prompts.check(good)
    with pytest.raises(InvalidRequest) as caught:
        prompts.check(good | change)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("param", "content"),
    [
        ("id", "type: test\ntemplate: hello"),
        ("template", "id: t\ntype: test\ntemplate: [1]"),
        ("max_tokens", "id: t\ntype: test\ntemplate: hello\nmax_tokens: many"),
        ("spec", "- a\n- b"),
        (None, "id: [unclosed"),
        ("the file.description", "id: t\ndescription: 2020-01-01"),
        ("the file", EXPLODING),
    ],
)
def test_bad_file_is_refused_with_its_name_and_the_field(
    tmp_path: Path, param: str | None, content: str
) -> None:
    """What is wrong, in which file, at which path; aliases that explode included."""
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=r"broken\.yaml") as caught:
        prompts.load_file(path)
    assert (caught.value.param or "spec") == (param or "spec")


def test_missing_file_says_so(tmp_path: Path) -> None:
    """No traceback for a wrong path."""
    with pytest.raises(InvalidRequest, match="cannot be read"):
        prompts.load_file(tmp_path / "gone.yaml")


@pytest.mark.parametrize("content", ["a: b", "default: ''", "- default", "default: 1"])
def test_fallbacks_need_a_default_text(tmp_path: Path, content: str) -> None:
    """A file without a usable default is refused."""
    path = tmp_path / "fallbacks.yaml"
    path.write_text(content)
    with pytest.raises(InvalidRequest) as caught:
        prompts.load_fallbacks(path)
    assert caught.value.param == "default"
