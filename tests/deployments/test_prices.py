from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as TableTier
from genai_prices.types import Usage as TableUsage
from hypothesis import given
from hypothesis import strategies as st

from actors.cost_tracker import Usage
from actors.errors import InvalidRequest
from deployments.price_rates import Prices, Rates, Tier, nanos
from deployments.prices import PriceTable, Unpriced

DOLLAR = 10**9

tokens = st.integers(0, 2_000_000)
rates = st.builds(Rates, *[st.integers(0, 100 * DOLLAR)] * 4)


def at(text: str) -> int:
    """That moment of UTC in Unix nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("usd", "expected"),
    [
        (0.15, 150_000_000),
        ("0.075", 75_000_000),
        (3, 3 * DOLLAR),
        (Decimal("1e-9"), 1),
        (Decimal("1e-12"), 1),
        (0.13999999999999999, 140_000_000),
        (0, 0),
    ],
)
def test_dollars_become_whole_nano_dollars(usd: Any, expected: int) -> None:
    """Decimal dollars are exact; less than a nano-dollar is rounded up."""
    assert nanos(usd) == expected


@pytest.mark.parametrize("usd", [-1, "abc", None, True, float("nan"), float("inf"), 1_000_001, []])
def test_what_is_no_amount_is_refused(usd: Any) -> None:
    """Negative, endless, enormous and non-numeric prices are errors."""
    with pytest.raises(ValueError):
        nanos(usd)


def test_override_prices_each_kind() -> None:
    """Cached input and reasoning go at their own prices; what is not priced apart does not."""
    table = PriceTable(
        {
            "a": {
                "input_per_mtok": 2,
                "cached_input_per_mtok": 0.5,
                "output_per_mtok": 8,
                "reasoning_per_mtok": 3,
            },
            "b": {"input_per_mtok": 2, "output_per_mtok": 8},
        }
    )
    usage = Usage(input=1_000_000, cached=400_000, output=100_000, reasoning=50_000)
    assert table.resolve("x", "a").cost(usage) == (1_200 + 200 + 400 + 150) * DOLLAR // 1_000
    assert table.resolve("x", "b").cost(usage) == (2_000 + 800) * DOLLAR // 1_000


def test_override_of_one_provider_wins() -> None:
    """`provider/model` is more exact than `model`, and both win over the table."""
    mine = {"input_per_mtok": 1, "output_per_mtok": 1}
    other = {"input_per_mtok": 7, "output_per_mtok": 7}
    table = PriceTable({"gpt-4o-mini": mine, "azure/gpt-4o-mini": other})
    assert table.resolve("openai", "gpt-4o-mini").cost(Usage(input=1_000_000)) == DOLLAR
    assert table.resolve("azure", "gpt-4o-mini").cost(Usage(input=1_000_000)) == 7 * DOLLAR


def test_free_is_said_aloud() -> None:
    """Only policy makes a model cost nothing, and its price version says so."""
    prices = PriceTable({"llama": {"free": True}}).resolve("mine", "llama")
    assert prices.cost(Usage(10**6, 0, 10**6, 0)) == prices.worst_case(10**6, 10**6) == 0
    assert prices.version == "free"


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "never-heard-of"),
        ("my-own-servers", "gpt-4o-mini"),
        ("openai", "whisper-1"),  # priced by the hour
        ("github-copilot", "gpt-4o"),  # in the table, without a price
    ],
)
def test_model_without_price_is_refused(provider: str, model: str) -> None:
    """A model that has no price never costs 0: it is an error that says what to do."""
    with pytest.raises(Unpriced, match=r"no price.*input_per_mtok.*free: true") as caught:
        PriceTable().resolve(provider, model)
    assert (caught.value.status, caught.value.code) == (400, "model_not_priced")
    assert isinstance(caught.value, InvalidRequest)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input_per_mtok": 1}, "prices.m.output_per_mtok"),
        ({"input_per_mtok": -1, "output_per_mtok": 1}, "prices.m.input_per_mtok"),
        ({"input_per_mtok": 1, "output_per_mtok": "much"}, "prices.m.output_per_mtok"),
        ({"input_per_mtok": 0, "output_per_mtok": 0}, "prices.m"),
        ({"free": True, "input_per_mtok": 1}, "prices.m.free"),
        ({"free": "yes"}, "prices.m.free"),
        ({"inputs": 1}, "prices.m.inputs"),
        ("free", "prices.m"),
    ],
)
def test_bad_override_names_its_field(given: Any, param: str) -> None:
    """An override that can't be meant is an error with the field's path."""
    with pytest.raises(InvalidRequest) as caught:
        PriceTable({"m": given})
    assert caught.value.param == param


def test_cost_is_rounded_up() -> None:
    """A part of a nano-dollar counts as one; whole ones stay."""
    prices = PriceTable({"m": {"input_per_mtok": 0.15, "output_per_mtok": 0.6}}).resolve("p", "m")
    assert prices.cost(Usage(input=1)) == 150
    tiny = Prices("p/m", "v", (Tier(-1, Rates(1, 1, 1, 1)),))
    assert [tiny.cost(Usage(input=n)) for n in (0, 1, 10**6, 10**6 + 1)] == [0, 1, 1, 2]


def test_price_table_answers_as_genai_prices_does() -> None:
    """For all of its models with text prices, tiers too, each kind costs what it says there."""
    table, compared = PriceTable(), 0
    counts = (Usage(150_000, 50_000, 9_000, 1_000), Usage(350_000, 0, 10, 0))
    now = datetime.now(UTC)
    for provider in get_snapshot().providers:
        for model in provider.models:
            try:
                found = get_snapshot().find_provider_model(model.id, None, provider.id, None)
                prices = table.resolve(provider.id, model.id)
            except (LookupError, Unpriced):
                continue
            listed = found[1].get_prices(now)
            if listed.output_mtok is None:
                continue
            kept = ("input_mtok", "cache_read_mtok", "output_mtok", "output_reasoning_mtok")
            text = ModelPrice(
                **{kind: getattr(listed, kind) for kind in kept}, requests_kcount=None
            )
            for each in counts:
                usage = TableUsage(
                    input_tokens=each.input,
                    cache_read_tokens=each.cached,
                    output_tokens=each.output,
                    output_reasoning_tokens=each.reasoning,
                )
                exact = text.calc_price(usage)["total_price"] * DOLLAR
                ours = prices.cost(each) - prices.per_call
                assert 0 <= ours - exact < 2, (provider.id, model.id, each)
                compared += 1
    assert compared > 1_000


def listed(prices: Any) -> ModelInfo:
    """A model of a price table."""
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=prices)


@pytest.fixture
def table_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `genai-prices` know one model `m` at that price."""

    def put(prices: Any) -> None:
        snapshot = SimpleNamespace(find_provider_model=lambda *_: (None, listed(prices)))
        monkeypatch.setattr("genai_prices.data_snapshot.get_snapshot", lambda: snapshot)

    return put


def test_long_calls_go_at_their_tier(table_with: Any) -> None:
    """Above a tier's start all tokens of the call cost the tier's price."""
    table_with(
        ModelPrice(
            input_mtok=TieredPrices(
                base=Decimal(1),
                tiers=[TableTier(200_000, Decimal(2)), TableTier(500_000, Decimal(4))],
            ),
            output_mtok=TieredPrices(base=Decimal(3), tiers=[TableTier(200_000, Decimal(5))]),
        )
    )
    prices = PriceTable().resolve("p", "m")
    million = 10**6
    for input, rate, output_rate in ((200_000, 1, 3), (200_001, 2, 5), (500_001, 4, 5)):
        assert prices.cost(Usage(input, 0, 10, 0)) * million == (
            (input * rate + 10 * output_rate) * DOLLAR
        )


def test_price_changes_by_date(table_with: Any) -> None:
    """A price that starts on a date is in force from that date's first moment on."""
    table_with(
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))),
            ConditionalPrice(
                StartDateConstraint(date(2025, 12, 1)),
                prices=ModelPrice(input_mtok=Decimal(9), output_mtok=Decimal(9)),
            ),
        ]
    )
    now = [at("2025-11-30T23:59:59")]
    table = PriceTable(clock=lambda: now[0])
    assert table.resolve("p", "m").cost(Usage(input=10**6)) == DOLLAR
    now[0] = at("2025-12-01T00:00:00")
    assert table.resolve("p", "m").cost(Usage(input=10**6)) == 9 * DOLLAR


def test_price_changes_by_time_of_day(table_with: Any) -> None:
    """A price for some hours is taken in them, and left after them, every day."""
    table_with(
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(4), output_mtok=Decimal(4))),
            ConditionalPrice(
                TimeOfDateConstraint(time(16, 30), time(0, 30)),
                prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)),
            ),
        ]
    )
    now = [0]
    table = PriceTable(clock=lambda: now[0])
    for moment, dollars in (
        ("2025-11-23T16:29:59", 4),
        ("2025-11-23T16:30:00", 1),
        ("2025-11-24T00:29:59", 1),
        ("2025-11-24T00:30:00", 4),
        ("2025-11-26T17:00:00", 1),
    ):
        now[0] = at(moment)
        assert table.resolve("p", "m").cost(Usage(input=10**6)) == dollars * DOLLAR, moment


def test_price_per_call_is_added(table_with: Any) -> None:
    """A fee for each request is part of the cost and of the worst case."""
    table_with(
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal("12"))
    )
    prices = PriceTable().resolve("p", "m")
    assert prices.cost(Usage(input=1_000)) == 12_000_000 + 1_000_000
    assert prices.worst_case(0, 0) == 12_000_000


def test_prices_are_looked_up_once(table_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call for a model does not go to the table again."""
    table_with(ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)))
    table = PriceTable()
    first = table.resolve("p", "m")
    monkeypatch.setattr("genai_prices.data_snapshot.get_snapshot", lambda: None)
    assert table.resolve("p", "m") is first
    assert first.version.startswith("genai-prices ")


@given(
    st.lists(st.tuples(st.integers(0, 10**6), rates), max_size=3),
    rates,
    tokens, tokens, tokens, tokens, tokens, tokens,
)  # fmt: skip
def test_i2_worst_case_is_never_below_the_cost(
    above: list[tuple[int, Rates]],
    base: Rates,
    input: int,
    output: int,
    fewer_in: int,
    fewer_out: int,
    cached: int,
    reasoning: int,
) -> None:
    """I2: no call within the counted tokens costs more than what was reserved for it."""
    tiers = (Tier(-1, base), *[Tier(*each) for each in sorted(above)])
    prices = Prices("p/m", "v", tiers)
    usage = Usage(min(fewer_in, input), cached, min(fewer_out, output), reasoning)
    assert prices.cost(usage) <= prices.worst_case(input, output)
