import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.arrivals import fixed_rate
from simulations.workload import Intent, Workload, Zipf, text

MANY = list(fixed_rate(100, 100))


@given(st.integers(1, 500), st.floats(0, 3), st.integers(0, 2**32))
def test_zipf_ranks_are_in_range_and_probabilities_sum_to_one(
    size: int, exponent: float, seed: int
) -> None:
    """Invariant: only existing ranks are drawn, none is likelier than the one before it."""
    zipf = Zipf(size, exponent)
    rng = random.Random(seed)
    assert all(0 <= zipf.draw(rng) < size for _ in range(20))
    chances = [zipf.probability(rank) for rank in range(size)]
    assert sum(chances) == pytest.approx(1)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(chances))


def test_zipf_draws_as_often_as_its_probabilities_say() -> None:
    """With exponent 1 the first rank comes twice as often as the second, ten times the tenth."""
    zipf, rng = Zipf(100, 1.0), random.Random(4)
    counts = Counter(zipf.draw(rng) for _ in range(60_000))
    assert counts[0] / 60_000 == pytest.approx(zipf.probability(0), rel=0.05)
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.08)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)


@given(st.integers(0, 2**32))
def test_intents_follow_from_their_seed_alone(seed: int) -> None:
    """Invariant: the same seed and arrivals give the same intents, another seed gives others."""
    workload = Workload("m", topics=20)
    arrivals = list(fixed_rate(20, 2))
    first = list(workload.intents(arrivals, seed))
    assert first == list(workload.intents(arrivals, seed))
    assert first != list(workload.intents(arrivals, seed + 1))
    assert [intent.at_s for intent in first] == arrivals


def test_shares_of_a_workload_are_met() -> None:
    """Prompts, streams and priorities come in the shares that were asked for."""
    workload = Workload("m", prompt_share=0.3, stream_share=0.4, high_share=0.05, low_share=0.15)
    intents = list(workload.intents(MANY, 5))
    count = len(intents)
    priorities = Counter(intent.priority for intent in intents)
    assert sum(intent.kind == "prompt" for intent in intents) / count == pytest.approx(
        0.3, abs=0.02
    )
    assert sum(intent.stream for intent in intents) / count == pytest.approx(0.4, abs=0.02)
    assert priorities["high"] / count == pytest.approx(0.05, abs=0.01)
    assert priorities["low"] / count == pytest.approx(0.15, abs=0.02)


def test_popular_topics_are_asked_again_word_by_word() -> None:
    """Chats on one topic are the same request, or no cache could answer the second."""
    workload = Workload("m", prompt_share=0, topics=50, topic_exponent=1.1)
    intents = list(workload.intents(MANY, 6))
    asked = Counter((intent.messages, intent.max_tokens) for intent in intents)
    assert len(asked) <= 50
    assert asked.most_common(1)[0][1] / len(intents) == pytest.approx(
        Zipf(50, 1.1).probability(0), rel=0.1
    )


def test_sizes_stay_within_their_bounds() -> None:
    """Text and answers are cut to the workload's bounds."""
    workload = Workload("m", prompt_share=0, max_input=100, max_output=30)
    for intent in workload.intents(MANY[:500], 7):
        assert len(intent.messages[0][1].split()) <= 100 + 2
        assert intent.max_tokens is not None
        assert 1 <= intent.max_tokens <= 30


def test_a_text_has_a_token_for_every_four_characters() -> None:
    """Three letters and a space per word: a count by words and one by characters agree."""
    for tokens in (1, 10, 500):
        written = text(tokens, random.Random(8))
        assert len(written.split()) == tokens
        assert len(written) == 4 * tokens - 1


@pytest.mark.parametrize(
    ("intent", "path", "body"),
    [
        (
            Intent(0, "chat", "m", (("user", "hi"),), user="ana", max_tokens=5, stream=True),
            "/v1/chat/completions",
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hi"}],
                "user": "ana",
                "max_tokens": 5,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ),
        (
            Intent(0, "prompt", template="t1", inputs={"data": "x"}, priority="high"),
            "/v1/prompts/t1/execute",
            {"inputs": {"data": "x"}, "user_id": "u1", "priority": "high", "stream": False},
        ),
    ],
)
def test_an_intent_knows_its_request(intent: Intent, path: str, body: dict[str, object]) -> None:
    """Chats and prompts become the bodies that their endpoints take."""
    assert intent.path == path
    assert intent.body() == body
