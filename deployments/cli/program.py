"""The commands of `raygate`, put together."""

import os
import sys

import typer

from deployments.cli import config_commands, keys_commands, ledger_commands
from deployments.cli.down import down
from deployments.cli.openapi import openapi
from deployments.cli.roll_back import roll_back
from deployments.cli.simulate import simulate
from deployments.cli.status import status
from deployments.cli.terminal import Problem, notice
from deployments.cli.up import up

app = typer.Typer(
    name="raygate",
    help="An LLM gateway on Ray Serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up)
app.command()(down)
app.command()(status)
app.add_typer(config_commands.app, name="config")
app.add_typer(keys_commands.app, name="keys")
app.add_typer(ledger_commands.app, name="ledger")
app.command("roll-back")(roll_back)
app.command()(openapi)
app.command()(simulate)


def main() -> None:
    """Run a command; what goes wrong is said in a sentence, with exit code 1."""
    try:
        app()
    except Problem as problem:
        notice(str(problem), style="red")
    except Exception as error:
        if os.environ.get("RAYGATE_DEBUG"):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        notice(f"raygate broke: {type(error).__name__}: {first}", style="red")
        notice("RAYGATE_DEBUG=1 shows where.")
    sys.exit(1)
