"""Running the commands of one batch, so that one that breaks spoils none of the others."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from actors.errors import RaygateError

log = logging.getLogger(__name__)

Command = tuple[str, tuple[Any, ...]]


def run(
    singleton: str,
    items: Sequence[Command],
    command: Callable[[str, tuple[Any, ...]], Any],
    check: Callable[[Any], None] | None,
    broken: dict[int, RaygateError],
) -> list[Any] | None:
    """The replies. None where a command broke: all is to be undone, and run again without it.

    check: raises what storing a reply would raise; None: not now.
    broken: the answers to those that broke before, by their places; one more, where one breaks.
    """
    replies: list[Any] = []
    for index, (name, args) in enumerate(items):
        try:
            if index in broken:
                replies.append(broken[index])
                continue
            reply = command(name, args)
            if check is not None:
                check(reply)
            replies.append(reply)
        except RaygateError as error:
            replies.append(error)
        except Exception:
            log.exception("%s: %s broke", singleton, name)
            broken[index] = RaygateError(f"{singleton} failed at {name}")
            return None
    return replies
