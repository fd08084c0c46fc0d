"""Who asks: the key in the request, looked up in this replica's view."""

import asyncio
import time

from actors.errors import InvalidApiKey, NotAllowed, SingletonUnavailable
from actors.key_store import KeyRecord
from actors.keys import hash_of
from deployments.absence import heard
from deployments.services import Services

_HIGH, _NORMAL, _LOW = 0, 1, 2
PRIORITIES = {"high": _HIGH, "normal": _NORMAL, "low": _LOW}


async def authenticate(services: Services, headers: dict[bytes, bytes]) -> KeyRecord:
    """The record of the key that came with a request.

    Raises InvalidApiKey, and SingletonUnavailable when who has it does not answer in time.
    """
    given = headers.get(b"authorization", b"")
    secret = given[7:].strip() if given[:7].lower() == b"bearer " else headers.get(b"x-api-key")
    if not secret:
        raise InvalidApiKey(
            "No API key came with this request. Send `Authorization: Bearer rg-...`.",
            should_retry=False,
        )
    hash = hash_of(secret.decode("latin-1"))
    keys = services.keys
    record: KeyRecord | None = keys.view.get(hash)
    # A key made a moment ago is not in the view yet; one revoked must leave it in time.
    if record is None or not keys.fresh():
        try:
            deadline = asyncio.get_running_loop().time() + _patience_s(services, headers)
            async with asyncio.timeout_at(deadline):
                asked = keys.submit("find", hash)
                record = await heard(services, "key_store", asked, deadline)
        except TimeoutError:
            raise SingletonUnavailable(
                "key_store did not answer in time; it is being restarted.", retry_after_s=2.0
            ) from None
    if record is None or not record.usable(time.time_ns()):
        raise InvalidApiKey("This API key is not known, or not valid any more.", should_retry=False)
    return record


def _patience_s(services: Services, headers: dict[bytes, bytes]) -> float:
    """The request's own time, which has not been read yet when its key is looked up."""
    try:
        asked = float(headers.get(b"x-raygate-timeout", b""))
    except ValueError:
        asked = 0.0
    longest = services.args.default_timeout_s
    return min(asked, longest) if asked > 0 else longest


def must_be_admin(record: KeyRecord) -> None:
    """Raises NotAllowed."""
    if record.role != "admin":
        raise NotAllowed("This needs an admin key.", should_retry=False)


def must_be_user(record: KeyRecord) -> None:
    """Raises NotAllowed for viewers."""
    if record.role == "viewer":
        raise NotAllowed("A viewer's key may read health and metrics only.", should_retry=False)
