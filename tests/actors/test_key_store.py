import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import key_store, keys, viewer
from actors.consultant import Consultant
from actors.errors import Conflict, InvalidRequest, NotFound, Overloaded, RaygateError
from actors.host import Host
from actors.key_store import KeyRecord, KeyStore
from actors.mechanism import Gone, Row
from actors.transport import InProcess

MINTED = [keys.mint() for _ in range(6)]


def record(minted: keys.MintedKey, **changed: Any) -> KeyRecord:
    """A user's key of team `red`, with some fields changed."""
    made = KeyRecord(minted.id, "ci", "red", "user", minted.hash, models=("gpt-4o-mini",))
    return made._replace(**changed)


def test_minted_key_is_random_url_safe_and_named_after_its_hash() -> None:
    """Two keys differ, have the documented shape, and their id begins the hash."""
    one, other = keys.mint(), keys.mint()
    assert one.secret != other.secret
    assert keys.is_key(one.secret)
    assert len(one.secret) >= len("rg-") + 32
    assert one.hash == keys.hash_of(one.secret)
    assert one.hash.startswith(one.id)
    assert len(one.id) == 8


def test_hash_is_sha256() -> None:
    """The hash is plain SHA-256 in hex (known answer of FIPS 180 for `abc`)."""
    assert keys.hash_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_no_repr_shows_a_secret_or_a_whole_hash() -> None:
    """Neither a minted key nor a record gives itself away in a log line."""
    minted = MINTED[0]
    assert minted.secret not in repr(minted)
    assert minted.hash not in repr(record(minted))
    assert minted.id in repr(record(minted))


@pytest.mark.parametrize("secret", ["", "rg-", "rg-short", "sk-" + "a" * 40, "rg-" + "ä" * 40])
def test_chosen_key_must_have_the_shape_and_is_not_quoted(secret: str) -> None:
    """An operator's own key is refused when weak, without repeating it."""
    with pytest.raises(InvalidRequest) as caught:
        keys.adopt(secret)
    assert len(secret) <= 3 or secret not in str(caught.value)


def test_created_key_is_seen_by_its_hash_until_it_is_revoked() -> None:
    """It is shown to who has asked for it, and all are told when it is no more."""
    store, minted = KeyStore(), MINTED[0]
    made = store.create(5, "a", record(minted))
    assert made.created_ns == 5
    assert store.view(minted.hash, 6) == store.find(6, "b", minted.hash) == made
    changes = store.take_changes()
    assert changes.views == set()
    assert changes.shown == [("b", minted.hash)]
    assert store.find(6, "b", MINTED[1].hash) is None
    assert store.take_changes().shown == []
    store.revoke(7, "a", minted.id)
    assert store.view(minted.hash, 7) is store.find(7, "b", minted.hash) is None
    assert store.take_changes().views == {minted.hash}
    assert store.list(8, "a")[0].disabled


def test_key_expires_at_its_time_and_views_are_told() -> None:
    """`advance` names the moment, and takes the key out of the views at it."""
    store, minted = KeyStore(), MINTED[0]
    store.create(0, "a", record(minted, expires_ns=100))
    store.take_changes()
    assert store.advance(99) == 100
    assert store.view(minted.hash, 99) is not None
    assert store.take_changes().views == set()
    assert store.advance(100) is None
    assert store.view(minted.hash, 100) is None
    assert store.take_changes().views == {minted.hash}


def test_creating_the_same_again_changes_nothing_and_another_conflicts() -> None:
    """A create repeated after a lost reply is harmless; an id is never taken over."""
    store, minted = KeyStore(), MINTED[0]
    made = store.create(1, "a", record(minted))
    store.take_changes()
    assert store.create(2, "a", record(minted)) == made
    assert store.take_changes().rows == []
    with pytest.raises(Conflict):
        store.create(3, "a", record(minted, role="admin"))
    store.revoke(4, "a", minted.id)
    with pytest.raises(Conflict):
        store.create(5, "a", record(minted))


def test_bootstrap_makes_one_admin_key_and_no_second() -> None:
    """Only a gateway without a usable admin key can be bootstrapped."""
    store, (one, other, *_) = KeyStore(), MINTED
    made = store.bootstrap(1, "a", one.id, one.hash)
    assert made.role == "admin"
    assert made.may_be_high
    assert store.bootstrap(2, "a", one.id, one.hash) == made
    with pytest.raises(Conflict):
        store.bootstrap(3, "a", other.id, other.hash)
    store.revoke(4, "a", one.id)
    assert store.bootstrap(5, "a", other.id, other.hash).role == "admin"


def test_ensure_admin_is_idempotent_and_never_revives_a_revoked_key() -> None:
    """A key in the environment comes into being once; revoking it is final."""
    store, minted = KeyStore(), MINTED[0]
    made = store.ensure_admin(1, "a", minted.id, minted.hash)
    assert store.ensure_admin(2, "a", minted.id, minted.hash) == made
    store.revoke(3, "a", minted.id)
    with pytest.raises(Conflict):
        store.ensure_admin(4, "a", minted.id, minted.hash)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hash", "no hash"),
        ("hash", 7),
        ("id", "00000000"),
        ("role", "root"),
        ("name", ""),
        ("team", None),
        ("models", "gpt-4o"),
        ("models", ("",)),
        ("may_be_high", 1),
        ("max_wait_ns", -1),
        ("expires_ns", 1.5),
        ("expires_ns", 3),
    ],
)
def test_bad_field_is_refused_by_name_before_anything_changes(field: str, value: object) -> None:
    """Every field is checked, and the error says which one it was."""
    store = KeyStore()
    with pytest.raises(InvalidRequest) as caught:
        store.create(10, "a", record(MINTED[0], **{field: value}))
    assert str(caught.value.param).startswith(field)
    assert store.take_changes().rows == []


def test_unknown_key_cannot_be_revoked() -> None:
    """Revoking needs a key."""
    with pytest.raises(NotFound):
        KeyStore().revoke(1, "a", "00000000")


def test_store_is_bounded_and_forgets_only_what_is_unusable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full store drops its oldest revoked user key, and refuses when all are in use."""
    monkeypatch.setattr(key_store, "MAX_KEYS", 2)
    store, (one, two, three, *_) = KeyStore(), MINTED
    store.create(1, "a", record(one))
    store.create(2, "a", record(two))
    with pytest.raises(Overloaded):
        store.create(3, "a", record(three))
    store.revoke(4, "a", one.id)
    store.create(5, "a", record(three))
    assert [found.id for found in store.list(6, "a")] == [two.id, three.id]
    assert store.count(6, "a") == 2


async def until(true: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.002)


@pytest.mark.anyio
async def test_views_hold_what_was_asked_for_until_it_is_revoked(tmp_path: Path) -> None:
    """Each watcher has its own keys; a revoked one is in no view once `everywhere` has said so.

    Also after a restart, and where a look-up and the revocation are under way together.
    """
    path, one, two = str(tmp_path / "keys.sqlite"), *MINTED[:2]
    host = Host("actors.key_store:KeyStore", path, "claim")
    way = InProcess(host)
    here, there = (Consultant("key_store", way) for _ in range(2))
    for each in (here, there):
        each.start()
        await until(each.fresh)
    made = [await here.ask("create", record(minted)) for minted in (one, two)]
    assert await here.ask("find", one.hash) == made[0]
    assert [await there.ask("find", minted.hash) for minted in (one, two)] == made
    await until(lambda: len(here.view) == 1 and len(there.view) == 2)
    assert here.view == {one.hash: made[0]}

    looked_up = there.submit("find", one.hash)
    await here.ask("revoke", one.id)
    await here.ask("everywhere", "barrier")
    assert here.view == {}
    assert there.view == {two.hash: made[1]}
    await looked_up

    host.close()
    way.host = host = Host("actors.key_store:KeyStore", path, "claim")
    await until(lambda: there.incarnation == (1, 1))
    assert there.view == {}
    assert await there.ask("find", one.hash) is None
    assert await there.ask("find", two.hash) == made[1]
    await until(lambda: there.view == {two.hash: made[1]})
    for each in (here, there):
        await each.close()
    host.close()


@pytest.mark.anyio
async def test_a_view_keeps_no_more_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that came first goes first; it is asked for again."""
    monkeypatch.setattr(viewer, "MOST_VIEWED", 2)
    host = Host("actors.key_store:KeyStore", str(tmp_path / "keys.sqlite"), "claim")
    asker = Consultant("key_store", InProcess(host))
    asker.start()
    await until(asker.fresh)
    for minted in MINTED[:3]:
        await asker.ask("create", record(minted))
        await asker.ask("find", minted.hash)
        await until(lambda hash=minted.hash: hash in asker.view)  # type: ignore[misc]
    assert [*asker.view] == [minted.hash for minted in MINTED[1:3]]
    await asker.close()
    host.close()


def test_list_is_not_kept_for_resends() -> None:
    """Only small replies of changes are stored with a batch."""
    store = KeyStore()
    made = store.create(1, "a", record(MINTED[0]))
    assert store.keep(made) == made
    assert store.keep(store.list(2, "a")) == Gone()


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["create", "bootstrap", "ensure_admin", "revoke", "expiring", "advance"]),
        st.sampled_from(MINTED),
    ),
    max_size=30,
)


@given(COMMANDS)
def test_loaded_rows_equal_the_state_that_lived(
    commands: list[tuple[str, keys.MintedKey]],
) -> None:
    """I8: all rows ever handed out, loaded afresh, answer like the store that lived."""
    lived = KeyStore()
    rows: dict[tuple[str, str], object] = {}
    now = 0
    for name, minted in commands:
        now += 1
        try:
            if name == "create":
                lived.create(now, "a", record(minted))
            elif name == "expiring":
                lived.create(now, "a", record(minted, expires_ns=now + 3))
            elif name == "revoke":
                lived.revoke(now, "a", minted.id)
            elif name == "advance":
                lived.advance(now)
            else:
                getattr(lived, name)(now, "a", minted.id, minted.hash)
        except RaygateError:
            assert lived.take_changes().rows == []
        rows.update({(row.table, row.key): row.value for row in lived.take_changes().rows})
        admins = [one for one in lived.list(now, "a") if one.role == "admin" and one.usable(now)]
        assert len(admins) == lived.status(now, "a")["admins"]
    fresh = KeyStore()
    stored = [
        Row(table, key, msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
        for (table, key), value in rows.items()
        if value is not None
    ]
    assert not any(minted.secret in str(stored) for minted in MINTED)
    fresh.load(stored)
    assert fresh.advance(now) == lived.advance(now)
    assert fresh.list(now, "a") == lived.list(now, "a")
    assert fresh.status(now, "a") == lived.status(now, "a")
    assert {*fresh.view_keys()} == {*lived.view_keys()}
    for minted in MINTED:
        assert fresh.view(minted.hash, now) == lived.view(minted.hash, now)
