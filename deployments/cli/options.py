"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="RAYGATE_CONFIG",
        help="The configuration; default: serve_config.yaml here or in the project's folder.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="RAYGATE_URL", help="The gateway; default: the one that is up."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="RAYGATE_ADMIN_KEY", help="An admin's key.", show_envvar=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
