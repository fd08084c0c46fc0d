"""The tables that every host has beside its mechanism's."""

from typing import Literal

from actors import callers, incarnation, life, watchers

HOST_TABLES: dict[str, Literal["live"]] = dict.fromkeys(
    (incarnation.TABLE, callers.TABLE, life.TABLE, watchers.TABLE), "live"
)
