"""TLS, authentication, and who may relay."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from pathlib import Path

import pytest
from argon2 import PasswordHasher, extract_parameters
from front_door import PATIENCE, Client, Door, Loop, Tls, credential, front_door

from proxy.config import Listener
from proxy.errors import ConfigError
from proxy.smtp import server
from proxy.smtp.auth import Authenticator
from proxy.smtp.tls import server_context

LOOPS: list[Loop] = ["asyncio", "uvloop"]
PLAIN = base64.b64encode(b"\0app\0correct horse").decode()
WRONG = base64.b64encode(b"\0app\0battery staple").decode()
NOBODY = base64.b64encode(b"\0nobody\0correct horse").decode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secure(door: Door) -> Client:
    """A client after STARTTLS and EHLO."""
    client = door.connect()
    client.hello()
    assert client.say("STARTTLS").startswith("220 2.0.0 ")
    client.start_tls(door.client_tls)
    client.hello()
    return client


# -- STARTTLS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_starttls_is_offered_once_and_protects_what_follows(tmp_path: Path, loop: Loop) -> None:
    with front_door(tmp_path, tls="starttls", loop=loop) as door, door.connect() as client:
        assert "STARTTLS" in client.hello()
        assert client.code("STARTTLS x") == 501
        assert client.code("STARTTLS") == 220
        client.start_tls(door.client_tls)
        assert "STARTTLS" not in client.hello()
        assert client.code("STARTTLS") == 503
        client.open()
        assert client.code("DATA") == 354
        body = b"x" * 900 + b"\r\n"
        client.send(body * 1000 + b".\r\n")
        assert client.reply().startswith("250 ")
        assert door.gate.submitted[0].content == body * 1000
        submitter = door.gate.submitted[0].envelope.submitter
        assert (submitter.tls, submitter.protocol) == (True, "ESMTPS")
        assert client.code("QUIT") == 221


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "injected", [b"MAIL FROM:<evil@d.example>\r\n", b"EHLO x\r\n", b"\x16\x03\x01"]
)
def test_what_follows_starttls_in_clear_ends_the_session(
    tmp_path: Path, loop: Loop, injected: bytes
) -> None:
    with front_door(tmp_path, tls="starttls", loop=loop) as door, door.connect() as client:
        client.hello()
        client.send(b"STARTTLS\r\n" + injected)
        assert client.reply().startswith("554 5.5.0 ")
        assert client.at_end()
        assert door.gate.mails == []


def test_nothing_from_before_is_known_after_starttls(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, door.connect() as client:
        client.hello()
        # On a trusted network a password may be given without TLS; it counts for nothing after it.
        assert client.code(f"AUTH PLAIN {PLAIN}") == 235
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert client.code("RCPT TO:<x@y.example>") == 250
        assert client.code("STARTTLS") == 220
        client.start_tls(door.client_tls)
        assert client.code("RCPT TO:<x@y.example>") == 503
        assert client.code("DATA") == 503
        assert client.code("MAIL FROM:<a@b.example>") == 503
        client.hello()
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert door.gate.mails[0].submitter.credential == "app"
        assert door.gate.mails[1].submitter.credential == ""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("octets", [b"EHLO plain.example\r\n", b"\x16\x03\x01\x00", b""])
def test_a_failed_handshake_gives_its_place_back(
    tmp_path: Path, loop: Loop, tls: Tls, octets: bytes
) -> None:
    with front_door(tmp_path, tls=tls, loop=loop) as door:
        with door.connect(greet=tls == "starttls") as client:
            if tls == "starttls":
                client.hello()
                assert client.code("STARTTLS") == 220
            client.send(octets)
        door.wait(lambda: door.counters.opened == door.counters.closed == 1)
        assert door.gate.mails == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_handshake_that_never_ends_is_cut(
    tmp_path: Path, loop: Loop, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.1)
    with (
        front_door(tmp_path, tls=tls, loop=loop, connections=1) as door,
        door.connect(greet=tls == "starttls") as client,
    ):
        if tls == "starttls":
            client.hello()
            assert client.code("STARTTLS") == 220
        door.wait(lambda: door.counters.opened == door.counters.closed == 1)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            client.start_tls(door.client_tls)


@pytest.mark.parametrize("loop", LOOPS)
def test_drain_cuts_a_handshake(tmp_path: Path, loop: Loop) -> None:
    with front_door(tmp_path, tls="implicit", loop=loop) as door, door.connect(greet=False):
        door.wait(lambda: door.counters.opened == 1)
        assert door.run(door.listener.drain(PATIENCE)) is True
        assert door.counters.closed == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_implicit_tls(tmp_path: Path, loop: Loop) -> None:
    with (
        front_door(tmp_path, tls="implicit", loop=loop) as door,
        door.connect(greet=False) as client,
    ):
        client.start_tls(door.client_tls)
        assert client.reply().startswith("220 ")
        assert "STARTTLS" not in client.hello()
        assert client.code("STARTTLS") == 502
        client.open()
        assert door.gate.mails[0].submitter.protocol == "ESMTPS"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocol_versions_are_refused(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="implicit") as door:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        plug = socket.create_connection(("127.0.0.1", door.port), PATIENCE)
        with plug, pytest.raises((ssl.SSLError, ConnectionResetError)):
            old.wrap_socket(plug)


def test_no_tls_is_offered_without_a_certificate() -> None:
    with front_door() as door, door.connect() as client:
        assert "STARTTLS" not in client.hello()
        assert client.say("STARTTLS").startswith("502 5.5.1 ")
    with pytest.raises(ConfigError, match="certificate"):
        server_context(Listener(address="127.0.0.1:0", tls="starttls"))
    gone = Path("/nonexistent.pem")
    listener = Listener(address="127.0.0.1:0", tls="implicit", certificate=gone, key=gone)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        server_context(listener)


# -- AUTH -----------------------------------------------------------------------------------------


def test_no_password_in_clear(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional", trusted=False) as door:
        with door.connect() as client:
            assert "AUTH" not in client.hello()
            for line in (f"AUTH PLAIN {PLAIN}", "AUTH LOGIN", "AUTH PLAIN", "AUTH X"):
                assert client.say(line).startswith("538 5.7.11 ")
        with secure(door) as client:
            assert "AUTH PLAIN LOGIN" in client.hello()
            assert client.say(f"AUTH PLAIN {PLAIN}").startswith("235 2.7.0 ")


def test_no_auth_where_none_is_configured(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="none") as door, secure(door) as client:
        assert "AUTH" not in client.hello()
        assert client.say(f"AUTH PLAIN {PLAIN}").startswith("502 5.5.1 ")


def test_plain_and_login_in_all_their_forms(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="required", trusted=False) as door:
        for lines in (
            [f"AUTH PLAIN {PLAIN}"],
            [f"auth plain {PLAIN}"],
            ["AUTH PLAIN", PLAIN],
            [f"AUTH PLAIN {b64(chr(0).join(['app', 'app', 'correct horse']))}"],
            ["AUTH LOGIN", b64("app"), b64("correct horse")],
            [f"AUTH LOGIN {b64('app')}", b64("correct horse")],
        ):
            with secure(door) as client:
                for line in lines[:-1]:
                    assert client.code(line) == 334
                assert client.say(lines[-1]).startswith("235 2.7.0 "), lines
                assert client.say(f"AUTH PLAIN {PLAIN}").startswith("503 5.5.1 ")
                client.open()
        assert {e.submitter.credential for e in door.gate.mails} == {"app"}
        assert {e.submitter.protocol for e in door.gate.mails} == {"ESMTPSA"}
        assert {e.submitter.identity for e in door.gate.mails} == {"user:app"}


def test_challenges_are_those_that_clients_look_for(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, secure(door) as client:
        assert client.say("AUTH LOGIN") == "334 VXNlcm5hbWU6"
        assert client.say(b64("app")) == "334 UGFzc3dvcmQ6"
        assert client.say(b64("no")).startswith("535 5.7.8 ")
        assert client.say("AUTH PLAIN") == "334 "


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["AUTH"], "501 5.5.4"),
        (["AUTH PLAIN x y"], "501 5.5.4"),
        (["AUTH CRAM-MD5"], "504 5.5.4"),
        (["AUTH SCRAM-SHA-256 eA=="], "504 5.5.4"),
        (["AUTH PLAIN %%%"], "501 5.5.2"),
        (["AUTH PLAIN eA"], "501 5.5.2"),
        ([f"AUTH PLAIN {PLAIN[:4]}%{PLAIN[4:]}"], "501 5.5.2"),
        (["AUTH PLAIN ="], "501 5.5.2"),
        (["AUTH PLAIN *"], "501 5.7.0"),
        ([f"AUTH PLAIN {b64('app')}"], "501 5.5.2"),
        ([f"AUTH PLAIN {base64.b64encode(bytes([0, 255, 0, 255])).decode()}"], "501 5.5.2"),
        (["AUTH PLAIN", "*"], "501 5.7.0"),
        (["AUTH LOGIN", "*"], "501 5.7.0"),
        (["AUTH LOGIN", b64("app"), "*"], "501 5.7.0"),
        (["AUTH LOGIN", ""], "334 UGFzc"),
        (["AUTH LOGIN", "", ""], "535 5.7.8"),
        (["AUTH PLAIN", "x" * 12286], "501 5.5.2"),
        (["AUTH PLAIN", "x" * 12287], "500 5.5.6"),
        (["AUTH PLAIN " + "x" * 12277], "500 5.5.2"),
        ([f"AUTH PLAIN {b64(chr(0).join(['anna', 'app', 'correct horse']))}"], "535 5.7.8"),
        ([f"AUTH PLAIN {b64(chr(0) + 'app' + chr(0))}"], "535 5.7.8"),
        ([f"AUTH PLAIN {b64(chr(0) + 'app' + chr(0) + 'x' * 5000)}"], "535 5.7.8"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_what_cannot_be_read_or_is_wrong(tmp_path: Path, lines: list[str], answer: str) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, secure(door) as client:
        for line in lines[:-1]:
            assert client.code(line) == 334
        assert client.say(lines[-1]).startswith(answer)
        if not answer.startswith("334"):
            assert client.code("NOOP") == 250
            assert client.code("MAIL FROM:<a@b.example>") == 250
            assert door.gate.mails[0].submitter.credential == ""


def test_an_endless_response_ends_the_session(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, door.connect() as client:
        client.hello()
        assert client.code("AUTH PLAIN") == 334
        client.send(b"A" * 100_000)
        assert client.reply().startswith("421 4.7.0 ")
        assert client.at_end()
        assert door.counters.replies[-1] == ("AUTH", 421)


def test_order(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, door.connect() as client:
        assert client.code(f"AUTH PLAIN {PLAIN}") == 503
        assert client.code("HELO c.example") == 250
        assert client.code(f"AUTH PLAIN {PLAIN}") == 503
        client.hello()
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert client.code(f"AUTH PLAIN {PLAIN}") == 503
        assert client.code("RSET") == 250
        assert client.code(f"AUTH PLAIN {PLAIN}") == 235


@pytest.mark.parametrize("token", [WRONG, NOBODY])
def test_three_failures_end_the_session(tmp_path: Path, token: str) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, secure(door) as client:
        for _ in range(2):
            assert client.say(f"AUTH PLAIN {token}").startswith("535 5.7.8 ")
        assert client.say(f"AUTH PLAIN {token}").startswith("421 4.7.0 ")
        assert client.at_end()
        assert door.gate.mails == []


def test_a_new_tls_layer_gives_no_new_tries(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional") as door, door.connect() as client:
        client.hello()
        for _ in range(2):
            assert client.code(f"AUTH PLAIN {WRONG}") == 535
        assert client.code("STARTTLS") == 220
        client.start_tls(door.client_tls)
        client.hello()
        assert client.say(f"AUTH PLAIN {WRONG}").startswith("421 4.7.0 ")


def test_required_means_before_mail(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="required") as door, secure(door) as client:
        assert client.say("MAIL FROM:<a@b.example>").startswith("530 5.7.0 ")
        assert client.code(f"AUTH PLAIN {PLAIN}") == 235
        assert client.code("MAIL FROM:<a@b.example>") == 250


def test_unknown_users_cost_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: one Argon2 verification with the same parameters, whoever it is."""
    work: list[object] = []
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, stored: str, password: str) -> bool:
        work.append(extract_parameters(stored))
        return verify(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)

    async def ask(username: str, password: str) -> tuple[bool, list[object]]:
        work.clear()
        return await authenticator.verify(username, password), list(work)

    async def all_of_them() -> list[tuple[bool, list[object]]]:
        pairs = [
            ("app", "wrong"),
            ("nobody", "wrong"),
            ("nobody", "correct horse"),
            ("app", ""),
            ("", "x"),
        ]
        return [await ask(*pair) for pair in pairs]

    authenticator = Authenticator([credential()])
    results = asyncio.run(all_of_them())
    assert [ok for ok, _ in results] == [False] * 5
    assert all(done == results[0][1] and len(done) == 1 for _, done in results)
    # What was right once is known again, without the work; what is wrong is not.
    assert asyncio.run(ask("app", "correct horse"))[0]
    assert asyncio.run(ask("app", "correct horse")) == (True, [])
    assert asyncio.run(ask("app", "correct horsE")) == (False, results[0][1])
    authenticator.close()


# -- Who may relay --------------------------------------------------------------------------------


RELAY = [
    "TO:<x@y.example>",
    "TO:<x%y.example@gate.acme.example>",
    "TO:<y.example!x@gate.acme.example>",
    "TO:<@gate.acme.example:x@y.example>",
    'TO:<"x@y.example"@gate.acme.example>',
    "TO:<x@gate.acme.example>",
]


@pytest.mark.parametrize("helo", ["c.example", "gate.acme.example", "[127.0.0.1]", "localhost"])
@pytest.mark.parametrize("sender", ["<a@b.example>", "<>", "<app@gate.acme.example>"])
def test_strangers_do_not_relay(tmp_path: Path, helo: str, sender: str) -> None:
    with front_door(trusted=False) as door, door.connect() as client:
        door.gate.strangers = frozenset({"u@fb.acme.example"})
        assert client.code(f"EHLO {helo}") == 250
        assert client.code(f"MAIL FROM:{sender}") == 250
        for to in RELAY:
            assert client.say(f"RCPT {to}").startswith("550 5.7.1 ")
        assert client.code("DATA") == 503
        assert door.gate.admitted == []
        # The address that takes opt-outs by mail is open to everyone, through `admit`.
        assert client.code("RCPT TO:<u@fb.acme.example>") == 250
        assert client.code("RCPT TO:<x@y.example>") == 550
        assert client.code("DATA") == 354
        client.send(b"unsubscribe\r\n.\r\n")
        assert client.reply().startswith("250 ")
        got = door.gate.submitted[0].envelope
        assert [a.exact for a in got.recipients] == ["u@fb.acme.example"]
        assert not got.submitter.may_relay


def test_where_a_password_would_help_the_client_is_told(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional", trusted=False) as door:
        with door.connect() as client:
            client.hello()
            assert client.code("MAIL FROM:<a@b.example>") == 250
            assert client.say("RCPT TO:<x@y.example>").startswith("530 5.7.0 ")
        with secure(door) as client:
            assert client.code(f"AUTH PLAIN {PLAIN}") == 235
            client.open("x@y.example")


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("XCLIENT ADDR=10.0.0.1", "550 5.7.1 "),
        ("XFORWARD ADDR=10.0.0.1", "500 5.5.1 "),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 3 4", "500 5.5.1 "),
    ],
)
def test_nobody_tells_us_another_address(verb: str, answer: str) -> None:
    with front_door(trusted=False) as door, door.connect() as client:
        assert "XCLIENT" not in client.hello()
        assert client.say(verb).startswith(answer)
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert door.gate.mails[0].submitter.peer == "127.0.0.1"
        assert door.gate.mails[0].submitter.network == ""
