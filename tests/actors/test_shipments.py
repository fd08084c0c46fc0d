from contextlib import closing
from pathlib import Path

from actors.mechanism import Row
from actors.pages import MOST_IN_A_PAGE
from actors.store import Store


def test_the_mark_of_the_last_commit_is_found(tmp_path: Path) -> None:
    """I8: also where a page came behind it, with nothing but rows that have moved."""
    tables = {"rows": "live", "_meta": "live"}
    with closing(Store(tmp_path / "a.sqlite", tables, durable=False)) as store:
        assert store.position().mark == ("", 0)
        store.commit([Row("rows", "stays", 1), Row("_meta", "mark", ("w", 1))])
        many = [Row("rows", str(n), n) for n in range(MOST_IN_A_PAGE - 1)]
        # All but one row of the first page are written anew: it goes, and that one moves.
        store._pages._bytes += 1 << 30
        store.commit([*many, Row("_meta", "mark", ("w", 2))])
        assert store.position()[0] == 3
        assert store.position().mark == ("w", 2)
