"""A result, where readers find it: pictures in docs, tables in the README."""

import json
from pathlib import Path
from typing import Any

from benchmarks.speed import plots
from benchmarks.speed.tables import tables

_HERE = Path(__file__).parents[1]
_DOCS = _HERE.parent / "docs"
_BEGIN, _END = "<!-- result -->", "<!-- end of result -->"


def publish(figures: dict[str, Any]) -> None:
    """Write the pictures, the README's tables and the figures themselves anew."""
    (_HERE / "speed.json").write_text(json.dumps(figures, indent=1) + "\n")
    if "gateway" in next(iter(figures.get("chat", {}).values()), {}):
        plots.speed(figures).savefig(_DOCS / "speed.png", dpi=120)
    if "streams" in figures:
        plots.streams(figures).savefig(_DOCS / "streams.png", dpi=120)
    readme = _HERE / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    readme.write_text(f"{before}{_BEGIN}\n\n{tables(figures)}\n\n{_END}{after}")
