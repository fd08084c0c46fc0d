"""The admin's key: made or taken at the first start, and never written down.

Talks to `key_store` directly, since there is no key yet to ask the gateway with. Needs a process
that is connected to Ray.
"""

import asyncio
from typing import Any

from actors import keys, registry
from actors.consultant import Consultant
from actors.errors import Conflict, RaygateError
from actors.ray_transport import RayTransport
from deployments.cli.terminal import Problem

_PATIENCE_S = 60.0


def ask(name: str, singleton: str, command: str, *args: Any) -> Any:
    """One command to a singleton of the gateway `name`. Raises Problem, RaygateError."""
    place = registry.home(name)
    if place is None:
        raise Problem(f"No gateway named {name} runs on that cluster.")

    async def main() -> Any:
        consultant = Consultant(singleton, RayTransport(name, singleton, place))
        consultant.start()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await consultant.ask(command, *args)
        finally:
            await consultant.close(patience_s=0.0)

    try:
        return asyncio.run(main())
    except TimeoutError:
        raise Problem(f"{singleton} does not answer.") from None


def ensure(name: str, given: str | None) -> str | None:
    """See to it that there is an admin's key; returns it if it was made now.

    given: the key that the operator chose; it is good afterwards. Raises Problem.
    """
    try:
        if given:
            chosen = keys.adopt(given)
            ask(name, "key_store", "ensure_admin", chosen.id, chosen.hash)
            return None
        return bootstrap(name)
    except Conflict as error:
        if given:
            raise Problem(f"RAYGATE_ADMIN_KEY: {error}") from None
        return None
    except RaygateError as error:
        raise Problem(f"RAYGATE_ADMIN_KEY: {error}" if given else str(error)) from None


def bootstrap(name: str) -> str:
    """Make the first admin's key. Raises Conflict where there is one."""
    minted = keys.mint()
    ask(name, "key_store", "bootstrap", minted.id, minted.hash)
    return minted.secret
