"""How many streams go on at once without a stall."""

import json
import urllib.request
from dataclasses import replace

from benchmarks.speed.rounds import Progress
from benchmarks.speed.search import largest
from benchmarks.speed.stream_words import Seen, Wish, run
from benchmarks.speed.subjects import PACE, Subject

_START = 128
_FIRST_TRIES, _LATER_TRIES, _AROUND_S = 9, 4, 3.0
_ON_TIME = 0.95
_FINE = 1.15


class Held:
    """The search, and what it found so far.

    upstream: URL of the streams' upstream. seconds: for which no stream may stall.
    at_most: streams that are tried at once.
    """

    def __init__(self, upstream: str, seconds: float, at_most: int, progress: Progress) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._at_most = at_most
        self._progress = progress
        self._found: dict[str, int] = {}

    @staticmethod
    def takes_s(subjects: int, rounds: int, seconds: float) -> float:
        """How long the searches take, about."""
        tries = _FIRST_TRIES + (rounds - 1) * _LATER_TRIES
        return subjects * tries * (seconds + _AROUND_S)

    def most(self, subject: Subject) -> int:
        """A search far and wide at first, and later around what was found."""
        before = self._found.get(subject.name)
        found = largest(
            lambda streams: self._goes_well(subject, streams),
            max(before, 1) if before is not None else _START,
            self._at_most,
            step=2.0 if before is None else _FINE,
            fine=_FINE,
        )
        self._found[subject.name] = found
        tries = _FIRST_TRIES if before is None else _LATER_TRIES
        self._progress.done(
            tries * (self._seconds + _AROUND_S),
            f"{subject.title:28} {found:6,} streams at {PACE} chunks/s without a stall",
        )
        return found

    def beyond(self, upstream: Subject) -> int:
        """That the upstream and the load could do more than anybody found; 0: they could not."""
        streams = round(max(self._found.values(), default=1) * _FINE)
        return streams if self._goes_well(upstream, streams) else 0

    def _goes_well(self, subject: Subject, streams: int) -> bool:
        # What happens once may have come from outside; what happens twice did not.
        return self._try(subject, streams) or self._try(subject, streams)

    def _try(self, subject: Subject, streams: int) -> bool:
        ask = subject.asks["paced"]
        self._late_ms()
        wish = Wish("hold", ask.url, dict(ask.headers), ask.model, streams, self._seconds)
        seen, _ = run(replace(wish, finish_url=f"{self._upstream}/finish"))
        late_ms = self._late_ms()
        reason = _reason(seen, streams, _ON_TIME * PACE * streams * self._seconds)
        self._progress.note(
            f"{streams:6,} streams  longest pause {seen.worst_ms:4.0f} ms  {reason or 'well'}  "
            f"(upstream late by {late_ms:.0f} ms, load {seen.cpu:.0%} of a core)"
        )
        return not reason

    def _late_ms(self) -> float:
        """The upstream's worst lateness since it was last asked."""
        with urllib.request.urlopen(f"{self._upstream}/stats", timeout=30) as reply:
            late_ms: float = json.load(reply)["late_ms"]
        return late_ms


def _reason(seen: Seen, streams: int, frames: float) -> str:
    """Why it did not go well; empty where it did."""
    if seen.failed or seen.opened < streams:
        return f"{seen.failed} failed, {seen.opened} open"
    if seen.stalled:
        return f"{seen.stalled} stalled"
    return "too slow" if seen.frames < frames else ""
