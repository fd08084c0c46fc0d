"""The figures as tables of Markdown, for a terminal and for the README."""

from collections.abc import Iterable, Sequence
from typing import Any


def tables(figures: dict[str, Any]) -> str:
    """Everything that was measured, and with what."""
    parts = [_where(figures)]
    if "chat" in figures:
        parts += [_chat(figures, clients) for clients in figures["chat"]]
    if "streams" in figures:
        parts.append(_streams(figures))
    return "\n\n".join(parts)


def _where(figures: dict[str, Any]) -> str:
    machine = dict(figures["machine"])
    date, cpu, cores = (machine.pop(name) for name in ("date", "cpu", "cpus"))
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    return (
        f"{date}, {cores} cores of {cpu}, shared by everything; {figures['replicas']} replicas; "
        f"medians of {figures['rounds']} rounds of {figures['seconds']:g} s. {versions}."
    )


def _chat(figures: dict[str, Any], clients: str) -> str:
    head = (f"{clients} clients" if clients != "1" else "1 client", "requests/s", "of the bare")
    rows = [
        (
            figures["titles"][name],
            f"{one['per_s']:,.0f}",
            f"{one['share']:.1%}",
            f"{one['p50_ms']:.2f}",
            f"{one['p99_ms']:.2f}",
            f"{one['cpu_us']:,.0f}",
            f"{one['failed']:,}",
        )
        for name, one in figures["chat"][clients].items()
    ]
    return _table((*head, "p50 ms", "p99 ms", "its CPU µs each", "failed"), rows)


def _streams(figures: dict[str, Any]) -> str:
    head = ("streams", "chunks/s", "of the bare", "its CPU µs each")
    rows = [
        (
            figures["titles"][name],
            f"{one['chunks_per_s']:,.0f}",
            f"{one['share']:.1%}",
            f"{one['cpu_us']:,.2f}",
            f"{one['first_p50_ms']:.2f}",
            f"{one['first_added_ms']:+.2f}",
            f"{one['held']:,.0f}" if "held" in one else "–",
        )
        for name, one in figures["streams"].items()
    ]
    more = ("first text p50 ms", "to the bare's", "without a stall at 50/s")
    return _table((*head, *more), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
