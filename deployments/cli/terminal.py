"""What the commands say: answers on stdout, progress and problems on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

answers = Console()
notices = Console(stderr=True)


class Problem(Exception):
    """Why a command can't do what was asked: short sentences for the terminal, no traceback."""


def line(text: str) -> None:
    """An answer as it is: not wrapped, no markup, so that it can be copied and piped."""
    answers.print(text, markup=False, highlight=False, soft_wrap=True)


def notice(text: str, style: str = "") -> None:
    """A sentence beside the answer."""
    notices.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """The steps of a command that takes a while; a line for each, live on a terminal."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._said = ""

    def __call__(self, text: str) -> None:
        """The step that runs now."""
        if text == self._said:
            return
        self._said = text
        self._status.update(text)
        if not notices.is_terminal:
            notice(text)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress while the block runs."""
    with notices.status("") as status:
        yield Progress(status)
