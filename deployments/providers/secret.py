"""A secret that every process of the cluster can read, and nobody has to configure.

The gateway and the embedded simulated provider agree on a key without its ever being written to
a file, a command line or a configuration. It lives in Ray's internal key-value store (a private
API of Ray's, the one that Serve keeps its own state in), and goes when the cluster goes.
"""

import secrets

from ray.experimental import internal_kv

_KEY = "simulated-provider-key"


def cluster_secret(name: str) -> str:
    """The secret of the gateway `name`, made at the first call in the cluster.

    Blocks for a call to Ray's head: not for an event loop that serves requests. Needs a process
    that is connected to Ray.
    """
    namespace = _namespace(name)
    fresh = f"sk-sim-{secrets.token_urlsafe(32)}"
    # Put-if-absent: of two first callers one wins, and both read the winner's.
    internal_kv._internal_kv_put(_KEY, fresh, overwrite=False, namespace=namespace)
    stored: bytes = internal_kv._internal_kv_get(_KEY, namespace=namespace)
    return stored.decode()


def forget_cluster_secret(name: str) -> None:
    """Remove the secret; the next `cluster_secret` makes another."""
    internal_kv._internal_kv_del(_KEY, namespace=_namespace(name))


def _namespace(name: str) -> str:
    return f"raygate-{name}"
