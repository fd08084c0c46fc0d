"""What is measured: who is asked, where, and in which words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import psutil

Kind = Literal["chat", "fast", "paced", "short"]

PACE = 50
"""Chunks a second of a paced stream."""

STREAMS: Mapping[Kind, str] = {"fast": "0/20000", "paced": f"{PACE}/0", "short": f"{PACE}/{PACE}"}
"""RATE/COUNT of each kind of stream at the upstream: as fast as it can; without end; a second."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Where a request goes, and what it names itself."""

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """One of those that are compared.

    name: in the result. title: in tables and pictures. asks: what it can be asked.
    fresh: whether each request asks something new, or all the same.
    processes: those that work for it alone, whose CPU is told.
    """

    name: str
    title: str
    asks: Mapping[Kind, Ask]
    fresh: bool = True
    processes: Callable[[], list[psutil.Process]] = list


def alike(base_url: str, streams_url: str) -> dict[Kind, Ask]:
    """The asks of a server whose routes are those of the upstreams.

    base_url: for plain calls, with its version. streams_url: what /RATE/COUNT comes after.
    """
    asks: dict[Kind, Ask] = {"chat": Ask(f"{base_url}/chat/completions", "gpt-4o-mini")}
    for kind, pace in STREAMS.items():
        asks[kind] = Ask(f"{streams_url}/{pace}/v1/chat/completions", "gpt-4o-mini")
    return asks


def by_model(url: str, headers: Mapping[str, str], chat: str = "gpt-4o-mini") -> dict[Kind, Ask]:
    """The asks of a gateway at one URL, which knows by the model where a request goes."""
    asks: dict[Kind, Ask] = {"chat": Ask(url, chat, headers)}
    for kind in STREAMS:
        asks[kind] = Ask(url, f"stream-{kind}", headers)
    return asks
