"""What becomes of what a dead process held: real files, real locks, hosts in this process."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import adopter, ledger, outbox
from actors.adopter import LEDGER, adopt, bury
from actors.charges import Facts, Paid, Usage
from actors.consultant import Consultant
from actors.host import Host
from actors.life import Life
from actors.outbox import Outbox, OutboxError
from actors.transport import InProcess
from tests.actors.holdings import FACTORY

pytestmark = pytest.mark.anyio

NAMES = ("rate_limiter", LEDGER)
USAGE = Usage(3, 1, 2, 0)
FACTS = Facts("k", "t", "u", "m", "p/m", "v1", {"tag": "x"})


class Gateway:
    """Two hosts of things to be held, one of them in the ledger's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = {
            name: Host(FACTORY, str(folder / f"{name}.sqlite"), "claim") for name in NAMES
        }
        self.opened = 0

    @asynccontextmanager
    async def singletons(self) -> AsyncIterator[Mapping[str, Consultant]]:
        """As an adopter gets them."""
        self.opened += 1
        askers = {name: Consultant(name, InProcess(host)) for name, host in self.hosts.items()}
        for asker in askers.values():
            asker.start()
        try:
            yield askers
        finally:
            for asker in askers.values():
                await asker.close()

    async def take(self, life: Life, name: str) -> None:
        """A process takes something everywhere, and falls silent."""
        for host in self.hosts.values():
            asker = Consultant("holdings", InProcess(host), life)
            asker.start()
            await asker.ask("take", name)
            for task in asker._tasks:
                task.cancel()

    async def said(self, name: str = LEDGER) -> list[Any]:
        async with self.singletons() as askers:
            said: list[Any] = await askers[name].ask("said")
            return said

    async def held(self) -> list[str]:
        """Owners of what is held anywhere."""
        async with self.singletons() as askers:
            found = [await asker.ask("held") for asker in askers.values()]
        return sorted({owner for held in found for owner in held.values()})


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """See `Gateway`."""
    made = Gateway(tmp_path)
    yield made
    for host in made.hosts.values():
        host.close()


def life_of(box: Outbox) -> Life:
    """Of the process with this outbox."""
    return Life(box.owner, "node", "machine", str(box.path))


def paid(charge_id: str, amount: int, estimated: bool) -> Paid:
    """A call that slices paid for."""
    accounts = ("daily|2026|", "team|2026|t")
    return Paid("o", charge_id, accounts, amount, amount, 9, USAGE, FACTS, estimated, "2026-01-01")


def die(box: Outbox) -> None:
    """As a kill -9 does: the lock goes, the files stay as they are."""
    os.close(box._lock)
    assert box._calls is not None
    box._calls.close()
    box._calls = None


async def test_a_dead_process_leaves_its_calls_settled_and_nothing_held(gateway: Gateway) -> None:
    """I3, I12: each entry becomes the one command that it asks for, before anything is buried."""
    box = Outbox(gateway.folder / "outbox")
    box.started("a", ("reserved", 9))
    box.started("b", ("leased", paid("b", 9, True)))
    box.started("c", ("reserved", 9))
    box.ended("c", ("post", 5, USAGE, False))
    box.started("d", ("leased", paid("d", 9, True)))
    box.ended("d", ("charge", paid("d", 4, False)))
    box.started("e", ("reserved", 9))
    box.ended("e", ("void",))
    box.started("f", ("reserved", 9))
    box.acknowledged("f")
    await gateway.take(life_of(box), "thing")
    die(box)
    assert await adopt(life_of(box), True, gateway.singletons) == "buried"
    said = await gateway.said()
    assert said == [
        ["post", "a", 9, Usage(), True],
        ["charge", paid("b", 9, True)],
        ["post", "c", 5, USAGE, False],
        ["charge", paid("d", 4, False)],
        ["void", "e"],
        ["bury", box.owner, False],
    ]
    assert [type(word) for word in (said[0][3], said[1][1], said[1][1].facts)] == [
        Usage,
        Paid,
        Facts,
    ]
    assert await gateway.said("rate_limiter") == [["bury", box.owner, False]]
    assert await gateway.held() == []
    assert list(box.path.parent.iterdir()) == []


async def test_a_process_that_lives_is_left_alone(gateway: Gateway) -> None:
    """Its lock is held: nobody is even asked."""
    box = Outbox(gateway.folder / "outbox")
    box.started("a", ("reserved", 9))
    await gateway.take(life_of(box), "thing")
    assert await adopt(life_of(box), True, gateway.singletons) == "alive"
    assert gateway.opened == 0
    assert await gateway.held() == [box.owner]
    assert len(outbox.read(box.path)) == 1
    die(box)


async def test_no_file_means_a_clean_end_only_where_it_was(gateway: Gateway) -> None:
    """On its own node, in a folder that is there; anywhere else it means nothing."""
    box = Outbox(gateway.folder / "outbox")
    life = life_of(box)
    await gateway.take(life, "thing")
    assert box.close()
    assert await adopt(life, False, gateway.singletons) == "missing"
    elsewhere = life._replace(path=str(gateway.folder / "gone" / "x.calls"))
    assert await adopt(elsewhere, True, gateway.singletons) == "missing"
    assert await gateway.held() == [life.owner]
    assert await adopt(life, True, gateway.singletons) == "buried"
    assert await gateway.held() == []


async def test_two_who_come_at_once_settle_once(gateway: Gateway) -> None:
    """The lock is one adopter's; the other finds it held, or the files gone."""
    box = Outbox(gateway.folder / "outbox")
    for number in range(50):
        box.started(f"{number}", ("reserved", number))
    await gateway.take(life_of(box), "thing")
    die(box)
    both = [adopt(life_of(box), True, gateway.singletons) for _ in range(2)]
    assert await asyncio.gather(*both) == ["buried", "alive"]
    assert len([word for word in await gateway.said() if word[0] == "post"]) == 50


async def test_an_adopter_that_dies_is_followed_by_another(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the last step nothing is removed, and all that was said may be said again."""
    box = Outbox(gateway.folder / "outbox")
    box.started("a", ("reserved", 9))
    await gateway.take(life_of(box), "thing")
    die(box)

    async def dies(*_: Any) -> int:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(adopter, "bury", dies)
        with pytest.raises(OSError, match="killed"):
            await adopt(life_of(box), True, gateway.singletons)
    assert await gateway.held() == [box.owner]
    assert await adopt(life_of(box), True, gateway.singletons) == "buried"
    assert [word[:2] for word in await gateway.said()] == [["post", "a"]] * 2 + [
        ["bury", box.owner]
    ]


async def test_an_entry_that_the_ledger_refuses_stands_in_nobodys_way(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does one that nobody understands: both are logged, the rest is settled."""
    box = Outbox(gateway.folder / "outbox")
    box.started("refused", ("reserved", 9))
    box.started("odd", ("reserved", 9, "and more"))
    box.started("odder", ("charge", (1, 2)))
    box.started("good", ("reserved", 9))
    await gateway.take(life_of(box), "thing")
    die(box)
    assert await adopt(life_of(box), True, gateway.singletons) == "buried"
    assert [word[1] for word in await gateway.said()] == ["good", box.owner]
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 3


async def test_files_of_another_format_are_left(gateway: Gateway) -> None:
    """Whoever understands them may come later; what is held stays held until then."""
    box = Outbox(gateway.folder / "outbox")
    await gateway.take(life_of(box), "thing")
    die(box)
    box.path.write_bytes(b"another program's file\n")
    for _ in range(2):
        with pytest.raises(OutboxError):
            await adopt(life_of(box), True, gateway.singletons)
    assert await gateway.held() == [box.owner]


async def test_a_process_that_is_lost_is_buried_as_such(gateway: Gateway) -> None:
    """What it had begun is not known; each host is told so."""
    life = Life(secrets.token_hex(16), "gone", "gone", "/gone")
    await gateway.take(life, "thing")
    async with gateway.singletons() as askers:
        assert await bury(life.owner, True, askers) == 2
        assert await bury(life.owner, True, askers) == 0
    assert ["bury", life.owner, True] in await gateway.said("rate_limiter")


# With the ledger itself, and a process that is really killed.

CHILD = """
import sys
from pathlib import Path
from actors.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
outbox.started("started", ("reserved", 700))
outbox.started("ended", ("reserved", 700))
outbox.ended("ended", ("post", 300, (3, 1, 2, 0), False))
print(outbox.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Life]]:
    """A process with an outbox, and its life."""
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "outbox")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        yield process, Life(path.stem, "node", "machine", str(path))
        process.kill()


async def test_the_ledger_charges_what_a_killed_process_had_started(
    tmp_path: Path, child: tuple[subprocess.Popen[str], Life]
) -> None:
    """I3: the started call as estimated at its worst case, the ended one at its cost, once."""
    host = Host("actors.cost_tracker:CostTracker", str(tmp_path / "costs.sqlite"), "claim")
    process, life = child

    @asynccontextmanager
    async def singletons() -> AsyncIterator[Mapping[str, Consultant]]:
        asker = Consultant(LEDGER, InProcess(host))
        asker.start()
        try:
            yield {LEDGER: asker}
        finally:
            await asker.close()

    dying = Consultant(LEDGER, InProcess(host), life)
    dying.start()
    for charge_id in ("started", "ended"):
        await dying.ask("reserve", charge_id, (), 700, 10**12, FACTS)
    for task in dying._tasks:
        task.cancel()
    assert await adopt(life, True, singletons) == "alive"
    process.kill()
    process.wait(10)
    for _ in range(2):
        assert await adopt(life, True, singletons) == "buried"
    async with singletons() as askers:
        rows = await askers[LEDGER].ask("rows", "ledger", "", 10)
    entries = [ledger.Entry(*row.value) for row in rows]
    assert [(one.charge_id, one.state, one.amount_nanos) for one in entries] == [
        ("started", "estimated", 700),
        ("ended", "actual", 300),
    ]
    host.close()
