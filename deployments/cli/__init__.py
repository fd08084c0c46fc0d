"""The command line `raygate`."""


def main() -> None:
    """Run it."""
    # Late: Ray, when it is started, imports a neighbour of this and waits for it.
    from deployments.cli.program import main as run

    run()
