"""What the cluster remembers of a gateway: its home, its terms, its last good policy.

It is kept in Ray's key-value store for as long as the cluster lives; this is the one module
that touches Ray's private API for it. All functions here block: call them off the event loop.
"""

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

from ray.experimental import internal_kv

from actors import nodes
from actors.sharded import shard_names
from actors.terms import Terms

_SPACE = b"raygate"

log = logging.getLogger(__name__)


def code_version() -> tuple[int, ...]:
    """The version of this code; hosts of an older one make way."""
    try:
        words = version("raygate").split(".")
    except PackageNotFoundError:
        return (0,)
    return tuple(int(word) for word in words if word.isdigit())


@dataclass(frozen=True, slots=True)
class Home:
    """Where the singletons of one gateway live.

    node: id of the node on which they first look for their stores; folder: of the stores, on
    each node. claim: a word that is new with each claim (a new cluster); code: the version
    that may create hosts. shards: how many hosts a singleton has, where it is not one.
    """

    node: str
    folder: str
    claim: str
    code: tuple[int, ...]
    shards: dict[str, int] = field(default_factory=dict)

    def names(self, singleton: str) -> list[str]:
        """The names of a singleton's hosts, in the order of their numbers."""
        return shard_names(singleton, self.shards.get(singleton, 1))

    def written(self) -> bytes:
        """As the cluster keeps it; code that knows no shards must be able to read it."""
        known = asdict(self)
        if not self.shards:
            del known["shards"]
        return json.dumps(known).encode()


class Kv:
    """Ray's key-value store, as `terms.Memory`."""

    def get(self, key: str) -> bytes | None:
        """See `Memory`."""
        found: bytes | None = internal_kv._internal_kv_get(key.encode(), namespace=_SPACE)
        return found

    def put(self, key: str, value: bytes) -> None:
        """See `Memory`."""
        internal_kv._internal_kv_put(key.encode(), value, overwrite=True, namespace=_SPACE)

    def put_new(self, key: str, value: bytes) -> bool:
        """See `Memory`."""
        there = internal_kv._internal_kv_put(key.encode(), value, overwrite=False, namespace=_SPACE)
        return not there

    def delete(self, key: str) -> None:
        """See `Memory`."""
        internal_kv._internal_kv_del(key.encode(), namespace=_SPACE)


KV = Kv()


def terms_of(name: str) -> Terms:
    """The terms of a gateway's hosts."""
    return Terms(KV, name)


def home(name: str) -> Home | None:
    """What was claimed for this gateway on this cluster, if anything was."""
    found = KV.get(f"home/{name}")
    if not found:
        return None
    fields = json.loads(found)
    return Home(**{**fields, "code": tuple(fields["code"])})


def claim(name: str, storage_path: str, shards: Mapping[str, int] | None = None) -> Home:
    """The home of this gateway: the first node for it, unless it was claimed before.

    storage_path: folder for durable state on each node; `~` is that node's user's.
    shards: how many hosts singletons shall have; where the home was claimed before, it has as
    many as it was claimed with.
    """
    wanted = {singleton: count for singleton, count in (shards or {}).items() if count > 1}
    first = nodes.preferred()[0].id
    mine = Home(first, storage_path, secrets.token_hex(8), code_version(), wanted)
    KV.put_new(f"home/{name}", mine.written())
    found = home(name)
    assert found is not None
    if found.shards != wanted:
        log.warning("%s runs with %s shards; another number takes a new start", name, found.shards)
    return found


def take_over(name: str, found: Home, code: tuple[int, ...]) -> Home:
    """From here on only this version makes hosts."""
    taken = replace(found, code=code)
    KV.put(f"home/{name}", taken.written())
    return taken


def give_up(name: str) -> None:
    """Forget the home, the terms of its hosts, and the policy."""
    KV.delete(f"home/{name}")
    KV.delete(f"policy/{name}")


def keep_policy(name: str, policy: str) -> None:
    """Remember a policy that was good, for replicas that start under one that is not."""
    KV.put(f"policy/{name}", policy.encode())


def kept_policy(name: str) -> str | None:
    """The last good policy on this cluster, if there was one."""
    found = KV.get(f"policy/{name}")
    return found.decode() if found else None
