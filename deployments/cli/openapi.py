"""`raygate openapi`: the OpenAPI document of the gateway."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.api.openapi import written
from deployments.cli.terminal import line


def openapi(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there.")] = None,
) -> None:
    """The OpenAPI document; a running gateway serves it at /openapi.json."""
    if output is None:
        line(written().rstrip())
    else:
        output.write_text(written())
