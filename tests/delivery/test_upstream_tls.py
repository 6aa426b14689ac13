"""TLS and AUTH: verified by default, never in clear, nothing injected."""

from __future__ import annotations

import asyncio
import base64
import datetime
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from pydantic import SecretStr
from upstream_peers import BODY, Events, Settings, Tap, pool_to, results, send, send_on, sink

from proxy.delivery.channel import Channel
from proxy.delivery.upstream import Pool
from proxy.errors import ConfigError, UpstreamUnavailable
from proxy.sink import EXTENSIONS
from proxy.store.model import Result

KINDS = pytest.mark.parametrize("tls", ["starttls", "implicit"])
WITH_AUTH = (*EXTENSIONS, "AUTH PLAIN LOGIN")


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


def server_side(issuer: trustme.CA, *names: str, expired: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = issuer.issue_cert(*names, not_after=past if expired else None)
    certificate.configure_cert(context)
    return context


@KINDS
async def test_mail_arrives_over_verified_tls(tls: str, ca: trustme.CA, ca_file: Path) -> None:
    context = server_side(ca, "127.0.0.1")
    tap = Tap()
    async with (
        sink(tls=context, implicit=tls == "implicit", tap=tap) as server,
        pool_to(server, tls=tls, ca_file=ca_file) as pool,
    ):
        big = BODY + (b".dots and text\r\n" * 100_000)
        async with pool.connection() as connection:
            assert results(await send_on(connection)) == [Result.ACCEPTED]
            assert results(await send_on(connection, None, big)) == [Result.ACCEPTED]
        assert [mail.content for mail in server.messages] == [BODY, big]
        assert tap.wire().count(b"EHLO") == (2 if tls == "starttls" else 1)
        assert server.connections == 1


async def test_uvloop_upgrades_too(ca: trustme.CA, ca_file: Path) -> None:
    async def over() -> list[Result]:
        async with (
            sink(tls=server_side(ca, "127.0.0.1")) as server,
            pool_to(server, tls="starttls", ca_file=ca_file) as pool,
        ):
            return results(await send(pool))

    def run() -> list[Result]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(over())

    assert await asyncio.to_thread(run) == [Result.ACCEPTED]


@KINDS
@pytest.mark.parametrize("fault", ["expired", "wrong name", "untrusted"])
async def test_a_certificate_that_does_not_verify_is_not_talked_to(
    tls: str, fault: str, ca: trustme.CA, ca_file: Path
) -> None:
    context = {
        "expired": lambda: server_side(ca, "127.0.0.1", expired=True),
        "wrong name": lambda: server_side(ca, "other.example"),
        "untrusted": lambda: server_side(trustme.CA(), "127.0.0.1"),
    }[fault]()
    tap = Tap()
    async with (
        sink(tls=context, implicit=tls == "implicit", tap=tap) as server,
        pool_to(server, tls=tls, ca_file=ca_file) as pool,
    ):
        with pytest.raises(UpstreamUnavailable, match="tls: certificate not accepted"):
            await send(pool)
        assert b"MAIL" not in tap.wire()
        assert not server.messages
    async with (
        sink(tls=context, implicit=tls == "implicit") as server,
        pool_to(server, tls=tls, verify=False) as pool,
    ):
        assert results(await send(pool)) == [Result.ACCEPTED]  # only where it is asked for


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_older_than_1_2_is_refused(ca: trustme.CA, ca_file: Path) -> None:
    context = server_side(ca, "127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with (
        sink(tls=context) as server,
        pool_to(server, tls="starttls", ca_file=ca_file) as pool,
    ):
        with pytest.raises(UpstreamUnavailable, match="tls: "):
            await send(pool)


@pytest.mark.parametrize(
    ("step", "stage"),
    [
        (b"454 4.7.0 not now\r\n", "starttls: 454"),
        (b"220 go on\r\n250 2.0.0 injected\r\n", "starttls: plaintext after"),
        (b"220 go on\r\n250-inj", "starttls: plaintext after"),
        (b"220 go on\r\n\x16\x03", "starttls: "),
    ],
    ids=["refused", "reply injected", "half a reply injected", "octets injected"],
)
async def test_starttls_refused_or_injected_sends_nothing(
    step: bytes, stage: str, ca: trustme.CA, ca_file: Path
) -> None:
    tap = Tap()
    async with (
        sink(tls=server_side(ca, "127.0.0.1"), tap=tap) as server,
        pool_to(server, tls="starttls", ca_file=ca_file) as pool,
    ):
        server.always("STARTTLS", step)
        with pytest.raises(UpstreamUnavailable, match=stage):
            await send(pool)
        assert b"MAIL" not in tap.wire()


async def test_starttls_stripped_from_the_offer_is_never_plaintext() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server, tls="starttls") as pool:
        with pytest.raises(UpstreamUnavailable, match="starttls: not offered"):
            await send(pool)
        server.always("EHLO", "502 5.5.1 no such command")
        with pytest.raises(UpstreamUnavailable):
            await send(pool)
        assert b"MAIL" not in tap.wire()


async def test_what_was_offered_before_tls_does_not_count(ca: trustme.CA, ca_file: Path) -> None:
    async with (
        sink(tls=server_side(ca, "127.0.0.1"), extensions=("8BITMIME",)) as server,
        pool_to(server, tls="starttls", ca_file=ca_file) as pool,
    ):
        server.once("EHLO", b"250-sink.example\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n")
        async with pool.connection() as connection:
            assert connection.supports("8BITMIME")
            assert not connection.supports("SMTPUTF8")


async def test_a_plaintext_server_on_a_tls_port_fails_in_time() -> None:
    async with sink() as server, pool_to(server, tls="implicit") as pool:
        with pytest.raises(UpstreamUnavailable, match="tls: TLS failed"):
            await send(pool)


def test_a_ca_file_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="ca_file"):
            Pool(
                [Settings(port=25, tls="starttls", ca_file=path)],
                hostname="gate.example",
                telemetry=Events(),
            )


# -- AUTH ----------------------------------------------------------------------------------------


def login(**more: Any) -> dict[str, Any]:
    return {"username": "user@acme.example", "password": SecretStr("pässword"), **more}


async def test_auth_plain_over_tls(ca: trustme.CA, ca_file: Path) -> None:
    tap = Tap()
    async with (
        sink(tls=server_side(ca, "127.0.0.1"), extensions=WITH_AUTH, tap=tap) as server,
        pool_to(server, **login(tls="starttls", ca_file=ca_file)) as pool,
    ):
        server.once("AUTH", "235 2.7.0 welcome")
        assert results(await send(pool)) == [Result.ACCEPTED]
        token = base64.b64encode("\0user@acme.example\0pässword".encode())
        assert b"AUTH PLAIN " + token + b"\r\n" in tap.wire()


async def test_auth_login_where_plain_is_not_offered() -> None:
    tap = Tap()
    async with (
        sink(extensions=(*EXTENSIONS, "AUTH LOGIN CRAM-MD5"), tap=tap) as server,
        pool_to(server, **login()) as pool,
    ):
        server.once("AUTH", "334 VXNlcm5hbWU6")
        server.once("*", "334 UGFzc3dvcmQ6", "235 2.7.0 welcome")
        assert results(await send(pool)) == [Result.ACCEPTED]
        user, password = (base64.b64encode(w.encode()) for w in ("user@acme.example", "pässword"))
        assert b"AUTH LOGIN\r\n" + user + b"\r\n" + password + b"\r\n" in tap.wire()


@pytest.mark.parametrize("reply", ["535 5.7.8 no: user@acme.example", "454 4.7.0 later"])
async def test_refused_credentials_are_our_trouble_and_name_nobody(reply: str) -> None:
    async with sink(extensions=WITH_AUTH) as server, pool_to(server, **login()) as pool:
        server.always("AUTH", reply)
        with pytest.raises(UpstreamUnavailable) as caught:
            await send(pool)
        assert f"auth: {reply[:9]}" in str(caught.value)
        assert "@" not in str(caught.value)
        assert not server.messages


async def test_no_mechanism_that_we_know_is_our_trouble() -> None:
    async with (
        sink(extensions=(*EXTENSIONS, "AUTH GSSAPI")) as server,
        pool_to(server, **login()) as pool,
    ):
        with pytest.raises(UpstreamUnavailable, match="neither PLAIN nor LOGIN"):
            await send(pool)


async def test_credentials_are_not_sent_in_clear_beyond_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tap = Tap()
    monkeypatch.setattr(Channel, "peer", property(lambda _: "192.0.2.1"))
    async with sink(extensions=WITH_AUTH, tap=tap) as server, pool_to(server, **login()) as pool:
        with pytest.raises(UpstreamUnavailable, match="not sent in clear"):
            await send(pool)
        assert b"AUTH" not in tap.wire()


# -- connecting ----------------------------------------------------------------------------------


async def test_a_closed_port_and_a_silent_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pool = Pool([Settings(port=port)], hostname="gate.example", telemetry=Events())
    with pytest.raises(UpstreamUnavailable, match="connect: "):
        await send(pool)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quick = datetime.timedelta(seconds=0.2)
        settings = Settings(port=silent.getsockname()[1], greeting_timeout=quick)
        pool = Pool([settings], hostname="gate.example", telemetry=Events())
        with pytest.raises(UpstreamUnavailable, match=r"greeting: no reply within 0\.2 s"):
            await send(pool)
        settings = Settings(port=silent.getsockname()[1], tls="implicit", connect_timeout=quick)
        pool = Pool([settings], hostname="gate.example", telemetry=Events())
        with pytest.raises(UpstreamUnavailable, match="connect: timed out"):
            await send(pool)


async def test_a_name_that_does_not_resolve_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    unknown = Settings(port=25, host="relay.example")
    pool = Pool([unknown], hostname="gate.example", telemetry=Events())
    with pytest.raises(UpstreamUnavailable, match="connect: Name or service not known"):
        await send(pool)


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sink() as server:
        port = server.smtp_port

        async def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
            broken = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", port)) for n in range(2, 5)]
            return [*broken, (socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        settings = Settings(port=port, host="relay.example")
        pool = Pool([settings], hostname="gate.example", telemetry=Events())
        assert results(await send(pool)) == [Result.ACCEPTED]
        await pool.close()
