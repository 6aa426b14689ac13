"""The store in trouble, over real sockets: what still goes, what must not, and the way back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import pytest
from running_sluis import CONFIG, OPT_IN, World, message, until

from policy.address import parse
from policy.model import Objection
from proxy.api_tokens import digest
from proxy.app import running
from proxy.config import load
from proxy.errors import StoreMissing, StoreUnavailable
from proxy.fallback.store import FallbackStore
from proxy.sink import Sink, Step
from proxy.store.model import State
from proxy.tokens import OptOut, seal

pytest_plugins = ("running_sluis",)

ANNA, BRAM, CEES = "anna@example.nl", "bram@example.nl", "cees@example.nl"
BRAM2 = "bram2@example.nl"
TOKEN = f"sluis_{'x' * 43}"
QUEUED = '[delivery]\nmode = "queued"'


@dataclass
class House:
    """A configuration on disk and an upstream; Sluis is started and stopped on it at will."""

    path: Path
    sink: Sink
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def data(self) -> Path:
        return self.path.parent / "data"

    @property
    def database(self) -> Path:
        return self.data / "sluis.db"

    async def start(self) -> World:
        settings = load(self.path, {})
        sluis = await self.stack.enter_async_context(running(settings))
        return World(sluis, self.sink, settings, self.path)

    async def stop(self) -> None:
        await self.stack.aclose()

    def kept(self) -> bool:
        return (self.data / "fallback").exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """As by another process: a transaction that writes and does not end."""
        with closing(sqlite3.connect(self.database, timeout=0)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("proxy.store.connection.BUSY_TIMEOUT", 100)
    monkeypatch.setattr("proxy.store.migrate.BUSY_TIMEOUT", 100)
    monkeypatch.setattr("proxy.fallback.store.PROBE", 0.05)
    sink = Sink()
    await sink.start()
    path = tmp_path / "sluis.toml"
    more = '[delivery]\ninline_wait = "3s"\nretry_first = "50ms"'
    path.write_text(
        CONFIG.format(
            data_dir=tmp_path / "data", upstream=sink.smtp_port, more=more, upstream_more=""
        )
    )
    house = House(path, sink)
    yield house
    await house.stop()
    await sink.close()


async def prepared(house: House) -> World:
    """Anna asked for the newsletter, Bram's address does not exist, and the snapshot shows it."""
    w = await house.start()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "bounce", severity="hard", days=1)
    await snapshot(w)
    return w


async def snapshot(w: World) -> None:
    """Wait until what the ledger knows now is in the snapshot."""
    store = w.sluis.store

    async def written() -> bool:
        store._refreshed_at = None
        file = store.shelter._file
        assert store._inner is not None
        return file is not None and file.high >= (await store._inner.lookup([])).high

    await until(written)


async def up(w: World) -> None:
    """Wait until the store serves again, and has all."""

    async def well() -> bool:
        return w.sluis.store.down is None and w.sluis.store.pending()[0] == 0

    await until(well)


async def click(w: World, address: str, stream: str = "newsletter") -> int:
    """The one-click of a mail of a stream; its status."""
    optout = OptOut(sender="acme", stream=stream, address=address, ref="x")
    token = seal(w.sluis.keys, optout)
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{w.sluis.public_port}/u/{token}"
        return (await client.post(url, data={"List-Unsubscribe": "One-Click"})).status_code


async def ready(w: World) -> tuple[int, list[str]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{w.sluis.admin_port}/readyz")
        return answer.status_code, answer.json()["degraded"]


async def writer(w: World, *statements: str) -> None:
    """Run statements on the connection that writes."""
    inner = w.sluis.store._inner
    assert inner is not None

    def run(db: sqlite3.Connection) -> None:
        for statement in statements:
            db.execute(statement)

    await inner._writer.run(run)


async def objected(w: World, address: str) -> int:
    """How many objections of a person are in the store itself."""
    inner = w.sluis.store._inner
    assert inner is not None
    subject = w.sluis.keys.subject("acme", parse(address))
    known = (await inner.lookup([subject])).known[subject]
    return sum(isinstance(event.detail, Objection) for event in known.events)


@dataclass(frozen=True)
class Trouble:
    """How the store is broken, and mended while the process runs (None: by a restart)."""

    name: str
    begin: Callable[[House, World, AsyncExitStack], Awaitable[None]]
    mend: Callable[[House, World, AsyncExitStack], Awaitable[None]] | None


async def lock(house: House, w: World, held: AsyncExitStack) -> None:
    held.enter_context(house.locked())


async def let_go(house: House, w: World, held: AsyncExitStack) -> None:
    await held.aclose()


async def no_writing(house: House, w: World, held: AsyncExitStack) -> None:
    await writer(w, "PRAGMA query_only = ON")


async def writing(house: House, w: World, held: AsyncExitStack) -> None:
    await writer(w, "PRAGMA query_only = OFF")


async def fill(house: House, w: World, held: AsyncExitStack) -> None:
    """No page may be added to the database; what is free in it is used up by people unknown."""
    await writer(w, "PRAGMA max_page_count = 1")
    n = 0
    while w.sluis.store.down is None:
        n += 1
        with suppress(StoreUnavailable):
            await w.know(f"p{n}@example.nl", "opt-in", evidence="x" * 900, **OPT_IN)
    w.sluis.store._down = None  # a mail of its own is to find it so


async def room(house: House, w: World, held: AsyncExitStack) -> None:
    await writer(w, "PRAGMA max_page_count = 1073741823")


async def damage(house: House, w: World, held: AsyncExitStack) -> None:
    """Another file stands where the database was: what is written there nobody would see."""
    house.database.rename(house.database.with_suffix(".aside"))


TROUBLES = [
    Trouble("locked", lock, let_go),
    Trouble("read-only", no_writing, writing),
    Trouble("full", fill, room),
    Trouble("lost", damage, None),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda t: t.name)
async def test_what_goes_on_and_what_does_not(house: House, trouble: Trouble) -> None:
    w = await prepared(house)
    assert (await w.send(ANNA, message(message_id="n0"))).startswith("250 ")
    async with AsyncExitStack() as held:
        await trouble.begin(house, w, held)
        sent = 0
        while w.sluis.store.down is None:  # a full store has room for a few of them
            receipt = message("orders", message_id=f"o1-{sent}")
            first = await w.send(CEES, receipt, stream="orders")
            assert first.startswith("250 "), first
            sent += 1
        assert (await w.send(CEES, receipt, stream="orders")) == first, "answered, not sent again"
        reply = await w.send(BRAM, message("orders", message_id="o2"), stream="orders")
        assert reply.startswith("451 4.3.0"), "a hard suppression holds"
        reply = await w.send(ANNA, message(message_id="n1"))
        assert reply.startswith("451 4.3.0"), "no marketing without the store"
        both = [CEES, ANNA]
        reply = await w.send(both, message("orders", message_id="o3"), stream="orders")
        assert reply.startswith("250 ")
        assert [m.recipients for m in house.sink.messages[1:]] == [(CEES.encode(),)] * (sent + 1)
        assert await click(w, ANNA) == 202
        assert await click(w, ANNA) == 202
        await until(lambda: _is(lambda: w.sluis.health.degraded == {"store"}))
        assert await ready(w) == (200, ["store"])
        assert house.kept()
        if trouble.mend is not None:
            await trouble.mend(house, w, held)
    if trouble.mend is None:
        await house.stop()
        house.database.with_suffix(".aside").rename(house.database)
        w = await house.start()
    await up(w)
    assert not house.kept()
    assert await objected(w, ANNA) == 1, "one opt-out, clicked twice"
    [row] = await w.journal(first)
    assert (row.state, row.stream, row.attempts) == (State.RELAYED, "orders", 1)
    reply = await w.send(ANNA, message(message_id="n1"))
    assert reply.startswith("550 5.7.1 suppressed"), reply
    assert (await w.send(CEES, receipt, stream="orders")) == first, "from the journal now"
    assert len(house.sink.messages) == sent + 2


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_an_opt_out_taken_without_the_store_stops_what_was_decided_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is in the writer's hands; its lookup was before the 202."""
    w = await prepared(house)
    store = w.sluis.store
    real = FallbackStore.claim
    once = True

    async def overtaken(self: FallbackStore, intake: object) -> object:
        nonlocal once
        if once and not getattr(intake, "undeduped", False):
            once = False
            with monkeypatch.context() as patch:
                patch.setattr(FallbackStore, "_ask", _refuses)
                assert await click(w, ANNA) == 202
        return await real(self, intake)  # type: ignore[arg-type]

    monkeypatch.setattr(FallbackStore, "_merge", _nothing)
    monkeypatch.setattr(FallbackStore, "claim", overtaken)
    reply = await w.send(ANNA, message(message_id="n1"))
    assert reply.startswith("550 5.7.1 suppressed"), reply
    assert store.pending()[0] == 1, "not merged yet: held over the decision"
    assert house.sink.messages == []


async def _refuses(self: FallbackStore, operation: str, ask: object) -> object:
    raise StoreUnavailable("locked")


async def _nothing(self: FallbackStore) -> None:
    return None


async def test_an_opt_out_stops_mail_that_waits_for_a_connection_without_the_store(
    house: House,
) -> None:
    """Decided before the 202, and begun after it: a connection came free only then."""
    text = house.path.read_text()
    narrow = text.replace(
        'from_domains = ["orders.acme.example"]',
        'from_domains = ["orders.acme.example"]\none_click = "stream"',
    ).replace('tls = "none"\n', 'tls = "none"\nconnections = 1\n', 1)
    assert "one_click" in narrow
    assert "connections = 1" in narrow
    house.path.write_text(narrow)
    w = await prepared(house)
    endpoint = w.sluis.gate._pool._endpoints[0]
    with house.locked():
        house.sink.always(".", Step.SILENT)
        ahead = asyncio.create_task(w.send(BRAM2, message("orders"), stream="orders"))
        await until(lambda: _is(lambda: endpoint._lent == 1 and w.sluis.store.down is not None))
        reply = asyncio.create_task(w.send(CEES, message("orders"), stream="orders"))
        await until(lambda: _is(lambda: len(endpoint._waiters) == 1))
        assert await click(w, CEES, "orders") == 202
        house.sink.always(".", None)
        house.sink.drop()
        assert (await ahead).startswith("451 ")
        said = await reply
    assert said.startswith("451 4.3.0"), said
    assert [m.recipients for m in house.sink.messages if m.recipients == (CEES.encode(),)] == []
    await up(w)
    said = await w.send(CEES, message("orders"), stream="orders")
    assert said.startswith("550 5.7.1 suppressed"), said


async def test_a_result_that_the_store_cannot_take_is_kept(house: House) -> None:
    """Marketing, too: its attempt is in the store, and what is known must not be forgotten."""
    w = await prepared(house)
    mail = message(message_id="n1")

    def tap(_: int, octets: bytes) -> None:
        if octets.endswith(b"\r\n.\r\n") and house.database.exists():
            house.database.rename(house.database.with_suffix(".aside"))

    house.sink.tap = tap
    reply = await w.send(ANNA, mail)
    assert reply.startswith("250 "), reply
    assert not house.database.exists()
    await house.stop()
    house.database.with_suffix(".aside").rename(house.database)
    w = await house.start()
    [row] = await w.journal(reply)
    assert (row.state, row.maybe_sent) == (State.RELAYED, False), "merged before it is recovered"
    assert await w.send(ANNA, mail) == reply
    assert len(house.sink.messages) == 1
    assert not house.kept()


async def test_it_starts_without_the_store_and_catches_up(house: House) -> None:
    w = await prepared(house)
    await house.stop()
    with house.locked():
        w = await house.start()
        assert w.sluis.store.down is not None
        reply = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
        assert reply.startswith("250 "), reply
        assert (await w.send(ANNA, message())).startswith("451 4.3.0")
        assert await click(w, ANNA) == 202
        await house.stop()
        w = await house.start()
        assert (await w.send(ANNA, message())).startswith("451 4.3.0")
        again = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
        assert again == reply, "found relayed in the fallback file"
        assert len(house.sink.messages) == 1
    await up(w)
    assert (await w.send(ANNA, message())).startswith("550 5.7.1 suppressed")
    [row] = await w.journal(reply)
    assert row.state is State.RELAYED
    assert not house.kept()


async def test_a_damaged_store_does_not_stop_the_start_and_a_missing_one_does(
    house: House,
) -> None:
    await prepared(house)
    await house.stop()
    whole = house.database.read_bytes()
    house.database.write_bytes(b"SQLite format 3\0" + bytes(4096) + whole[4112:])
    w = await house.start()
    reply = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
    assert reply.startswith("250 "), reply
    assert (await w.send(ANNA, message())).startswith("451 4.3.0")
    assert await click(w, ANNA) == 202
    house.database.write_bytes(whole)  # put back from a backup, while it runs
    await up(w)
    assert (await w.send(ANNA, message())).startswith("550 5.7.1 suppressed")
    assert [row.state for row in await w.journal(reply)] == [State.RELAYED]
    await house.stop()
    for left in house.data.glob("sluis.db*"):
        left.unlink()
    with pytest.raises(StoreMissing):
        await house.start()


async def test_of_several_one_waits_for_the_store_and_then_for_the_client(house: House) -> None:
    """A recipient upstream could not take would have to be owed, and the store cannot owe."""
    w = await prepared(house)
    mail = message("orders", message_id="o1")

    def tap(_: int, octets: bytes) -> None:
        if octets.endswith(b"\r\n.\r\n") and house.database.exists():
            house.database.rename(house.database.with_suffix(".aside"))

    house.sink.tap = tap
    house.sink.once("RCPT", None, "451 4.3.2 later")
    reply = await w.send([CEES, BRAM2], mail, stream="orders")
    assert reply.startswith("451 "), reply
    assert len(house.sink.messages) == 1
    await house.stop()
    house.database.with_suffix(".aside").rename(house.database)
    w = await house.start()
    with closing(sqlite3.connect(house.database)) as db:
        states = db.execute("SELECT state, maybe_sent FROM delivery ORDER BY state").fetchall()
    assert states == [("relayed", 0), ("returned", 0)], "what was known is known"
    house.sink.tap = None
    again = await w.send([CEES, BRAM2], mail, stream="orders")
    assert again.startswith("250 "), again
    assert sum(len(m.recipients) for m in house.sink.messages) == 2, "each once"


async def test_an_opt_out_by_mail_and_queued_mail(house: House) -> None:
    text = house.path.read_text()
    queued = text.replace(
        'from_domains = ["offers.acme.example"]',
        'from_domains = ["offers.acme.example"]\n[[streams]]\nid = "later"\nsender = "acme"\n'
        'category = "transactional"\ndelivery = "queued"\nfrom_domains = ["later.acme.example"]',
    )
    assert queued != text
    house.path.write_text(queued)
    w = await prepared(house)
    token = seal(w.sluis.keys, OptOut("acme", "newsletter", ANNA, "x"))
    mail = f"From: {ANNA}\r\nTo: u@fb.acme.example\r\nSubject: unsubscribe {token}\r\n\r\n\r\n"
    with house.locked():
        reply = await w.send("u@fb.acme.example", mail.encode(), mail_from=ANNA)
        assert reply.startswith("250 2.0.0 opt-out recorded"), reply
        later = message("orders").replace(b"orders.acme", b"later.acme")
        reply = await w.send(CEES, later, mail_from="b@later.acme.example")
        assert reply.startswith("451 4.3.0"), "nothing can be queued"
    await up(w)
    assert await objected(w, ANNA) == 1
    assert house.sink.messages == []


async def test_where_nothing_can_be_written_nothing_is_answered(house: House) -> None:
    w = await prepared(house)
    (house.data / "fallback").mkdir()  # no file can be made there
    with house.locked():
        reply = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
        assert reply.startswith("451 4.3.0"), reply
        assert await click(w, ANNA) == 503
        await until(lambda: _is(lambda: {"store", "fallback"} <= w.sluis.health.degraded))
        assert (await ready(w))[0] == 503
        (house.data / "fallback").rmdir()
        assert await click(w, ANNA) == 202
    await up(w)
    assert house.sink.messages == []
    assert (await w.send(ANNA, message())).startswith("550 5.7.1 suppressed")


def failures(capfd: pytest.CaptureFixture[str], reply: str) -> int:
    """How often `message.failed` was logged of a mail since the last look."""
    ref = reply.rpartition("(ref ")[2].rstrip(")")
    lines = capfd.readouterr().err.splitlines()
    return sum("message.failed" in line and ref in line for line in lines)


async def report(w: World, *events: dict[str, object]) -> tuple[int, list[str]]:
    """`POST /api/v1/events`: the status, and what became of each."""
    url = f"http://127.0.0.1:{w.sluis.admin_port}/api/v1/events"
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, json={"events": list(events)}, headers=headers)
    return answer.status_code, [one["result"] for one in answer.json().get("events", ())]


async def test_an_opt_out_that_an_application_reports_binds_without_the_store(
    house: House,
) -> None:
    token = f'[[api_tokens]]\nname = "crm"\ntoken_hash = "{digest(TOKEN)}"\nrole = "editor"\n'
    house.path.write_text(house.path.read_text() + token)
    w = await prepared(house)
    dora = {"address": "dora@example.nl", "type": "opt-in", "box": "unticked", "evidence": "f:1"}
    assert await report(w, {**dora, "topics": ["newsletter"], "country": "NL"}) == (200, ["new"])
    assert (await w.send("dora@example.nl", message())).startswith("250 ")
    objection: dict[str, object] = {"address": "dora@example.nl", "type": "objection"}
    assert await report(w, objection) == (200, ["new"])
    assert (await w.send("dora@example.nl", message())).startswith("550 5.7.1 suppressed")
    said: dict[str, object] = {"address": ANNA, "type": "objection", "at": "2026-11-20T10:00:00Z"}
    with house.locked():
        assert await report(w, said) == (202, ["kept"])
        assert await report(w, {**dora, "address": CEES}) == (503, [])
    await up(w)
    assert (await w.send(ANNA, message())).startswith("550 5.7.1 suppressed")
    assert await report(w, said) == (200, ["known"])
    assert len(house.sink.messages) == 1


def locked_at_the_dot(house: House) -> AsyncExitStack:
    """The store cannot be written from the next end of data on; until what comes back is closed."""
    held = AsyncExitStack()

    def tap(_: int, octets: bytes) -> None:
        if octets.endswith(b"\r\n.\r\n"):
            held.enter_context(house.locked())
            house.sink.tap = None

    house.sink.tap = tap
    return held


async def test_a_refusal_that_the_client_heard_is_merged_and_told_nobody_else(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    w = await prepared(house)
    held = locked_at_the_dot(house)
    house.sink.once(".", "550 5.7.0 no")
    reply = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
    assert reply.startswith("550 5.7.0 no"), reply
    await until(lambda: _is(house.kept))
    await held.aclose()
    await up(w)
    row = await w.ended(reply)
    assert (row.state, row.attempts) == (State.FAILED, 1)
    assert (await w.sluis.store.unfinished()).counts == {}
    assert failures(capfd, reply) == 0
    assert house.sink.messages == []


async def test_a_refusal_of_owed_mail_is_told_once_the_store_can_write_again(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was answered 250, so a notice is due, in the commit that records the refusal."""
    house.path.write_text(house.path.read_text().replace("[delivery]", QUEUED))
    w = await prepared(house)
    held = locked_at_the_dot(house)
    house.sink.once(".", "550 5.7.0 no")
    reply = await w.send(CEES, message("orders", message_id="o1"), stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply
    await until(lambda: _is(lambda: w.sluis.store.down is not None))
    await held.aclose()
    await up(w)
    row = await w.ended(reply)
    assert (row.state, row.attempts) == (State.FAILED, 1), "what upstream said is not asked again"
    await house.sink.received(1)
    [notice] = house.sink.messages
    assert b"550 5.7.0 no" in notice.content
    assert failures(capfd, reply) == 1
