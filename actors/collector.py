"""Python's garbage collector, set for processes that live long and keep much in memory."""

import gc

_YOUNG = 50_000
_MIDDLE = 50
_OLD = 100


def calm() -> None:
    """Collect less often.

    Requests and commands leave hardly any cycles behind, but make enough objects for a
    collection each few of them; measured, a tenth of a replica's time. What is there at the
    start stays: it need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
