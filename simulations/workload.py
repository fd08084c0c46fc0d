"""What is asked, by whom and when: a seeded list of intents, made before anything is sent."""

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from simulations.token_sizes import SizeSource, TokenSizes, azure_like

Kind = Literal["chat", "prompt"]
Priority = Literal["high", "normal", "low"]

# Three letters and a space: one token to the tokenizers in use, and one to a provider that counts
# a token for every four characters. So a text of n words is n tokens to everybody, and no
# reservation is too small because two sides count differently.
_VOCABULARY = (
    "the tax law net fee cut may add one big job new car fit old use day off how few ask who own "
    "top low red buy sum age map mix set key aim gap end act way why due pay run out per its all"
)
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True, slots=True)
class Intent:
    """One request as it was meant, whatever becomes of it.

    at_s: intended send time, seconds from the start of the run
    kind: "chat" (POST /v1/chat/completions) or "prompt" (POST /v1/prompts/{template}/execute)
    model: the model's name; chat only
    messages: (role, content) pairs; chat only
    template: the prompt template's id; prompt only
    inputs: the template's inputs; prompt only
    user: the end user it is sent for
    priority: high, normal or low
    stream: whether the answer is wanted as SSE
    max_tokens: most tokens to be generated; None leaves it to the model's cap; chat only
    """

    at_s: float
    kind: Kind
    model: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    template: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    user: str = "u1"
    priority: Priority = "normal"
    stream: bool = False
    max_tokens: int | None = None

    @property
    def path(self) -> str:
        """The endpoint that it goes to."""
        if self.kind == "chat":
            return "/v1/chat/completions"
        return f"/v1/prompts/{self.template}/execute"

    def body(self) -> dict[str, object]:
        """The JSON body that it is sent with."""
        if self.kind == "prompt":
            return {
                "inputs": dict(self.inputs),
                "user_id": self.user,
                "priority": self.priority,
                "stream": self.stream,
            }
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in self.messages],
            "user": self.user,
        }
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body


class Zipf:
    """Ranks 0 to size - 1, where rank k is drawn in proportion to 1/(k + 1)^exponent."""

    def __init__(self, size: int, exponent: float) -> None:
        weights = (float(rank + 1) ** -exponent for rank in range(size))
        self._cumulative: list[float] = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        """One rank."""
        drawn = rng.random() * self._cumulative[-1]
        return min(bisect.bisect_right(self._cumulative, drawn), len(self._cumulative) - 1)

    def probability(self, rank: int) -> float:
        """How likely a rank is to be drawn."""
        below = self._cumulative[rank - 1] if rank else 0.0
        return (self._cumulative[rank] - below) / self._cumulative[-1]


def text(tokens: int, rng: random.Random) -> str:
    """About as many tokens of text as were asked for."""
    return " ".join(rng.choices(_WORDS, k=tokens))


@dataclass(frozen=True, slots=True)
class Workload:
    """What a population of users asks; every share is between 0 and 1.

    model: the model of chat requests
    prompt_share: share of intents that execute a template instead of chatting
    template: the template that they execute
    stream_share: share of intents that want a stream
    high_share, low_share: shares of those priorities; the rest is normal
    users: number of end users, Zipf-active with exponent 1
    topics: number of different questions; the fewer, the more a cache can answer
    topic_exponent: how unequal they are in popularity; 0 means all alike
    max_input, max_output: bounds in tokens that sizes are cut to, to keep runs short
    sizes: where the size of a topic comes from
    """

    model: str
    prompt_share: float = 0.3
    template: str = "business_analysis_v1"
    stream_share: float = 0.4
    high_share: float = 0.05
    low_share: float = 0.15
    users: int = 20
    topics: int = 200
    topic_exponent: float = 1.1
    max_input: int = 2000
    max_output: int = 160
    sizes: SizeSource = azure_like

    def intents(self, arrivals: Iterable[float], seed: int) -> Iterator[Intent]:
        """One intent per arrival; the same seed and arrivals give the same intents."""
        rng = random.Random(seed)
        questions = self._questions(random.Random(rng.random()))
        popularity = Zipf(self.topics, self.topic_exponent)
        activity = Zipf(self.users, 1.0)
        for at_s in arrivals:
            question, max_tokens = questions[popularity.draw(rng)]
            user = f"u{activity.draw(rng) + 1}"
            priority = self._priority(rng.random())
            stream = rng.random() < self.stream_share
            if rng.random() < self.prompt_share:
                yield Intent(
                    at_s,
                    "prompt",
                    template=self.template,
                    inputs={"data": question},
                    user=user,
                    priority=priority,
                    stream=stream,
                )
            else:
                yield Intent(
                    at_s,
                    "chat",
                    model=self.model,
                    messages=(("user", question),),
                    user=user,
                    priority=priority,
                    stream=stream,
                    max_tokens=max_tokens,
                )

    def _questions(self, rng: random.Random) -> Sequence[tuple[str, int]]:
        questions = []
        for number in range(self.topics):
            size: TokenSizes = self.sizes(rng)
            # Numbered, so that no two topics are ever the same cache entry.
            question = f"Case {number}: {text(min(size.input, self.max_input), rng)}"
            questions.append((question, min(size.output, self.max_output)))
        return questions

    def _priority(self, draw: float) -> Priority:
        if draw < self.high_share:
            return "high"
        if draw < self.high_share + self.low_share:
            return "low"
        return "normal"
