"""`python -m deployments.cli`, where the program `raygate` is not on the path."""

from deployments.cli import main

main()
