"""The composition root: builds each part once, in the order that keeps the promises, and takes them
down again.

Start: lock, keys, packs, what an earlier run kept beside the store, the store with merge and
recovery, then listeners; nothing listens before the store has recovered, or is known to be down.
Stop: no new connections, data in progress finished, outcomes flushed, then the store is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from policy.model import Category
from policy.pack import Packs
from proxy import log
from proxy.census import Census
from proxy.clock import utc_now
from proxy.config import Settings
from proxy.config.packs import configured_packs
from proxy.config.timing import lease
from proxy.cores import together
from proxy.data_dir import keys_path, make_data_dir, may_create_store, open_keys
from proxy.delivery.authority import ends_of, next_end
from proxy.delivery.outbox import Outbox, OutboxState
from proxy.delivery.upstream import Pool
from proxy.errors import ConfigError, StoreError
from proxy.fallback.file import open_file
from proxy.fallback.keep import Keep
from proxy.fallback.records import decoded
from proxy.fallback.shelter import Shelter
from proxy.fallback.store import FallbackStore
from proxy.forwards import Forwarder
from proxy.gate import Gate
from proxy.keys import Keys
from proxy.signers import signing
from proxy.smtp import certificates
from proxy.smtp.limits import Admission
from proxy.smtp.server import RunningListener, serve_listener
from proxy.store.connection import HOT
from proxy.store.instance import InstanceLock, instance_id
from proxy.store.sqlite import SqliteStore, make_sqlite, open_sqlite
from proxy.telemetry import Telemetry
from proxy.web.admin import admin_app
from proxy.web.later import LaterApi
from proxy.web.public import public_app
from proxy.web.server import HttpServer

#: Seconds between two looks at what `/readyz` reports.
_PULSE = 5.0

#: Objects made, less those freed, between two looks of the garbage collector; Python's own 700 cost
#: a twentieth of a mail's CPU. The others are its generations, as `gc.set_threshold` has them.
_COLLECT_AT = (20_000, 20, 20)

#: Seconds that the loop may keep the interpreter from the store's threads, which ask for it several
#: times a commit: at Python's own 5 ms a busy loop makes every commit wait for it.
_SWITCH = 0.0005

#: Seconds that listening waits for the upstreams to say what they offer (EHLO).
_HEARS_WITHIN = 1.0

#: Seconds between two counts of the living bases, which reads the whole ledger.
_CENSUS = 3600.0


@dataclass
class Health:
    """What `/readyz` says. Ready while any stream can be served; `degraded` names what cannot."""

    data_dir: Path
    started: bool = False
    draining: bool = False
    goes_on: bool = False  # without the store
    degraded: set[str] = field(default_factory=set)

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Whether traffic may come, and why not or what is impaired."""
        if not self.started:
            return False, {"status": "starting"}
        if self.draining:
            return False, {"status": "draining"}
        if "data_dir" in self.degraded or ("store" in self.degraded and not self.goes_on):
            return False, {"status": "unavailable", "degraded": sorted(self.degraded)}
        return True, {"status": "ready", "degraded": sorted(self.degraded)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A Sluis that serves. Ports are the bound ones (a configured port 0 lets the system
    choose)."""

    settings: Settings
    keys: Keys
    store: FallbackStore
    packs: Packs
    telemetry: Telemetry
    gate: Gate
    health: Health
    listeners: tuple[RunningListener, ...]
    smtp_ports: tuple[int, ...]
    public_port: int
    admin_port: int


@asynccontextmanager
async def running(
    settings: Settings, *, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[Running]:
    """Serve until the block ends, then drain. Raises `SluisError` when a part cannot start."""
    make_data_dir(settings)
    data_dir = settings.server.data_dir
    telemetry = Telemetry(settings)
    health = Health(data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(InstanceLock.acquire(data_dir))
        create = may_create_store(settings)
        keys = open_keys(settings, create=create)
        if keys.created:
            log.keys_created(path=str(keys_path(settings)))
        packs = configured_packs(settings)
        telemetry.packs(packs)
        for pack in packs:
            log.pack_loaded(pack=pack.id, version=pack.version, digest=pack.digest)

        api = LaterApi(settings, keys, packs, clock=clock)
        admin = HttpServer(admin_app(telemetry, health, api.app), _bind(settings, "http.admin"))
        await admin.start()
        stack.push_async_callback(admin.stop)

        instance = await _instance(settings, create=create)
        store = _store(settings, instance, keys, telemetry, create=create, clock=clock)
        stack.push_async_callback(store.close)
        recovered = await store.start()
        api.store = store

        pool = _pool(settings, telemetry, clock)
        stack.push_async_callback(pool.close)
        state = OutboxState(settings.delivery, data_dir)
        gate = Gate(
            settings=settings,
            keys=keys,
            store=store,
            packs=packs,
            pool=pool,
            telemetry=telemetry,
            instance=f"i{instance[:6]}",
            clock=clock,
            outbox=state,
            signer=stack.enter_context(signing(settings)),
        )
        # Half of the connections at most: mail whose client waits goes first.
        connections = sum(upstream.connections for upstream in settings.upstreams)
        outbox = Outbox(
            store,
            gate.attempt,
            state,
            telemetry,
            at_once=max(1, connections // 2),
            clock=clock,
        )

        forwarder = Forwarder(
            settings, keys=keys, store=store, telemetry=telemetry, ring=state.ring, clock=clock
        )

        public = HttpServer(
            public_app(settings, keys, store, telemetry, clock=clock),
            _bind(settings, "http.public"),
        )
        await public.start()
        stack.push_async_callback(public.stop)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pool.hear(), _HEARS_WITHIN)
        listeners = await _listen(settings, gate, telemetry, clock=clock)
        census = Census(settings, store=store, packs=packs, telemetry=telemetry)
        background = _beside(
            store.run,
            partial(_pulse, settings, health, store, pool, state, telemetry, clock),
            partial(census.every, _CENSUS, clock),
            outbox.run,
            forwarder.run,
            partial(certificates.watch, listeners),
            partial(_hear, pool),
        )
        health.started = True
        log.server_started(
            listeners=[f"{x.host}:{x.port}" for x in listeners],
            public=public.port,
            admin=admin.port,
            recovered=recovered or 0,
        )
        try:
            yield Running(
                settings=settings,
                keys=keys,
                store=store,
                packs=packs,
                telemetry=telemetry,
                gate=gate,
                health=health,
                listeners=tuple(listeners),
                smtp_ports=tuple(x.port for x in listeners),
                public_port=public.port,
                admin_port=admin.port,
            )
        finally:
            health.draining = True
            telemetry.health(ready=False, degraded=len(health.degraded))
            await _drain(
                listeners, gate, outbox, forwarder, settings.server.drain_timeout.total_seconds()
            )
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            log.server_stopped()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    SIGHUP reads the certificates anew.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: recovery at the next start ends what was in progress
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    # Log rotation and closing terminals send it, too early at times; by default it would end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    async with running(settings) as sluis:
        loop.add_signal_handler(signal.SIGHUP, certificates.renew, sluis.listeners)
        _settle_down()
        held = asyncio.create_task(together({HOT})) if settings.server.one_core else None
        _notify_systemd()
        await stop.wait()
        if held is not None:
            held.cancel()  # what is left to do may use all there is


async def _instance(settings: Settings, *, create: bool) -> str:
    """The instance id. It says that there must be a database, so that is made before it: a first
    start that is killed in between leaves what the next one can use."""
    data_dir = settings.server.data_dir
    if create:
        await make_sqlite(settings.store.sqlite_path(data_dir))
    return instance_id(data_dir)


async def _listen(
    settings: Settings,
    gate: Gate,
    telemetry: Telemetry,
    *,
    clock: Callable[[], datetime],
) -> list[RunningListener]:
    """Open every listener, or none. Raises `ConfigError` naming the address that is not free."""
    admission = Admission(settings.limits)  # one for all: the limits are the process's
    listeners: list[RunningListener] = []
    for n, entry in enumerate(settings.listeners):
        try:
            listener = await serve_listener(
                entry, settings, gate, telemetry, clock=clock, admission=admission
            )
        except OSError as error:
            for opened in listeners:
                opened.close()
            key = f"listeners.{n}.address"
            raise _cannot_listen(settings, key, entry.address, error) from error
        listeners.append(listener)
        if entry.tls != "none":
            telemetry.certificate(entry.address, partial(_end_of, listener))
    return listeners


def _pool(settings: Settings, telemetry: Telemetry, clock: Callable[[], datetime]) -> Pool:
    """The upstreams. The authorities that it reads now stay in use until the next start."""
    pool = Pool(settings.upstreams, hostname=settings.server.hostname, telemetry=telemetry)
    for upstream in settings.upstreams:
        if upstream.ca_file is not None and upstream.verify and upstream.tls != "none":
            ends = ends_of(upstream.ca_file)
            telemetry.authority(upstream.name, partial(_next_end, ends, clock))
    return pool


def _next_end(ends: Sequence[float], clock: Callable[[], datetime]) -> float:
    return next_end(ends, clock().timestamp())


def _end_of(listener: RunningListener) -> float:
    return listener.certificate.ends


def _beside(*works: Callable[[], Coroutine[None, None, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(_kept_up(work)) for work in works]


async def _kept_up(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do `work` to its end; what is not foreseen is logged, and it is begun anew.

    Nobody waits for it, so it would be missed late, and silently: `/readyz` as it was then, no
    snapshot, no mail of the outbox.
    """
    while True:
        try:
            return await work()
        except Exception as error:
            log.incident(ref="", error=error)
            await asyncio.sleep(_PULSE)


async def _hear(pool: Pool) -> None:
    """Go on asking the upstreams that did not say yet what they offer (DSN)."""
    while not await pool.hear():  # noqa: ASYNC110  what changes is at the upstreams
        await asyncio.sleep(_PULSE)


async def _drain(
    listeners: list[RunningListener],
    gate: Gate,
    outbox: Outbox,
    forwarder: Forwarder,
    seconds: float,
) -> None:
    """Finish what is in progress within the deadline; what is left is ended by the next
    recovery."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(listener.drain(seconds) for listener in listeners))
            await asyncio.gather(gate.drain(), outbox.stop(), forwarder.stop())
    for listener in listeners:
        listener.close()


def _store(
    settings: Settings,
    instance: str,
    keys: Keys,
    telemetry: Telemetry,
    *,
    create: bool,
    clock: Callable[[], datetime],
) -> FallbackStore:
    """The store, not open yet, over what an earlier run kept beside it. Raises `StoreError`."""
    data_dir, delivery = settings.server.data_dir, settings.delivery
    file, payloads = open_file(data_dir)
    keep = Keep(file, decoded(payloads))

    async def opening() -> SqliteStore:
        return await open_sqlite(
            settings.store.sqlite_path(data_dir),
            instance=instance,
            owner=True,
            create=create,
            telemetry=telemetry,
            keys=keys.fingerprint,
            lease=lease(settings.upstreams, delivery.lease_margin),
            hold=delivery.expiry if delivery.ambiguous == "hold" else None,
            beside=keep.overlay,
        )

    max_age = delivery.snapshot_max_age
    shelter = Shelter(data_dir, keep.overlay, max_age=max_age, clock=clock)
    return FallbackStore(opening, keep, shelter, telemetry=telemetry, must_open=create)


async def _pulse(
    settings: Settings,
    health: Health,
    store: FallbackStore,
    pool: Pool,
    outbox: OutboxState,
    telemetry: Telemetry,
    clock: Callable[[], datetime],
) -> None:
    """Look at the surroundings every few seconds, and measure how late the loop is."""
    loop = asyncio.get_running_loop()
    some = any(
        s.category is not Category.MARKETING and settings.delivery_of(s, x.address) == "inline"
        for s in settings.streams
        for x in settings.listeners
    )
    while True:
        with contextlib.suppress(StoreError):
            await store.ping()
        degraded = store.degraded
        health.goes_on = some and store.goes_on
        records, oldest = store.pending()
        age = max(0.0, (clock() - oldest).total_seconds()) if oldest else 0.0
        telemetry.fallback(records, age)
        if not await asyncio.to_thread(_writable, health.data_dir):
            degraded.add("data_dir")
        if outbox.refusal() is not None:
            degraded.add("outbox")  # every MAIL hears 452
        up = pool.up()
        degraded |= {f"upstream {name}" for name, is_up in up.items() if not is_up}
        health.degraded = degraded
        telemetry.health(health.ready()[0], len(degraded))
        due = loop.time() + _PULSE
        await asyncio.sleep(_PULSE)
        telemetry.loop_lag(max(0.0, loop.time() - due))


def _writable(path: Path) -> bool:
    probe = path / ".writable"
    try:
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _bind(settings: Settings, key: str) -> socket.socket:
    """The bound socket of one HTTP address; raises `ConfigError` naming the key."""
    address = settings.http.public if key == "http.public" else settings.http.admin
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is (performance.md 3).
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # `[::]` is IPv4, too, whatever the system's default is: `check` counts on it.
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise _cannot_listen(settings, key, address, error) from error
    return bound


def _cannot_listen(settings: Settings, key: str, address: str, error: OSError) -> ConfigError:
    # The words of the system alone: asyncio and uvloop put their own around them.
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    remedy = "choose another address or port, or end what has it"
    return ConfigError([f"{settings.source}: {key}: cannot listen on {address}: {why}; {remedy}"])


def _settle_down() -> None:
    """What is loaded stays: the collector need not look at it again, and may look less often.

    Mail makes hardly any cycles; those that a failure makes are found all the same.
    """
    sys.setswitchinterval(_SWITCH)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AT)
    gc.enable()


def _notify_systemd() -> None:
    """Tell systemd that we are ready (sd_notify), where it asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)
