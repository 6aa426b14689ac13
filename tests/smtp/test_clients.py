"""Real clients: smtplib, aiosmtplib, swaks and curl; plain, STARTTLS, implicit TLS, AUTH."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import subprocess
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest
from front_door import PATIENCE, Auth, Door, Loop, Tls, front_door

LOOPS: list[Loop] = ["asyncio", "uvloop"]
KINDS: list[Tls] = ["none", "starttls", "implicit"]
TO = ["anna@example.nl", "bram@example.nl"]


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "app@acme.example", ", ".join(TO), "Hallo"
    made.set_content(".a line with a dot\n..two\n" + "körper\n" * 50, cte="8bit")
    return made


def check(door: Door, tls: Tls, *, authenticated: bool, to: Sequence[str] = TO) -> None:
    envelope = door.gate.submitted[-1].envelope
    assert [a.exact for a in envelope.recipients] == list(to)
    assert envelope.mail_from is not None
    assert envelope.mail_from.exact == "app@acme.example"
    assert envelope.submitter.tls is (tls != "none")
    assert envelope.submitter.credential == ("app" if authenticated else "")
    assert b"\r\n.a line with a dot\r\n..two\r\n" in door.gate.submitted[-1].content


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", KINDS)
def test_smtplib(tmp_path: Path, tls: Tls, loop: Loop) -> None:
    auth: Auth = "none" if tls == "none" else "required"
    with front_door(tmp_path, tls=tls, auth=auth, loop=loop) as door:
        client: smtplib.SMTP
        if tls == "implicit":
            client = smtplib.SMTP_SSL("localhost", door.port, context=door.client_tls)
        else:
            client = smtplib.SMTP("localhost", door.port)
        with client:
            if tls == "starttls":
                client.starttls(context=door.client_tls)
            if auth == "required":
                client.login("app", "correct horse")
            assert client.send_message(message()) == {}
            assert client.send_message(message(), mail_options=["BODY=8BITMIME"]) == {}
        check(door, tls, authenticated=auth == "required")
        # smtplib declares the size always, eight bits only when told to.
        assert [s.envelope.body_8bit for s in door.gate.submitted] == [False, True]
        assert all(s.envelope.declared_size > 300 for s in door.gate.submitted)


def test_smtplib_hears_what_was_refused(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls", auth="optional", trusted=False) as door:
        with smtplib.SMTP("localhost", door.port) as client:
            client.starttls(context=door.client_tls)
            with pytest.raises(smtplib.SMTPAuthenticationError, match=r"5\.7\.8"):
                client.login("app", "wrong")
        with smtplib.SMTP("localhost", door.port) as client:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as error:
                client.send_message(message())
            assert {code for code, _ in error.value.recipients.values()} == {530}
        assert door.gate.submitted == []


@pytest.mark.parametrize("tls", KINDS)
def test_aiosmtplib(tmp_path: Path, tls: Tls) -> None:
    auth: Auth = "none" if tls == "none" else "required"
    with front_door(tmp_path, tls=tls, auth=auth) as door:
        errors, answer = asyncio.run(
            aiosmtplib.send(
                message(),
                hostname="localhost",
                port=door.port,
                use_tls=tls == "implicit",
                start_tls=tls == "starttls",
                tls_context=door.client_tls if tls != "none" else None,
                username="app" if auth == "required" else None,
                password="correct horse" if auth == "required" else None,
                timeout=PATIENCE,
            )
        )
        assert (errors, answer[:14]) == ({}, "2.0.0 relayed ")
        check(door, tls, authenticated=auth == "required")


def run(*words: str, text: bytes = b"") -> str:
    """A tool that ends well, and its output."""
    done = subprocess.run(words, input=text, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", KINDS)
def test_swaks(tmp_path: Path, tls: Tls, mechanism: str) -> None:
    assert shutil.which("swaks"), "swaks is missing: `make setup-test` installs it"
    auth: Auth = "none" if tls == "none" else "required"
    words = ["swaks", "--server", "127.0.0.1", "--from", "app@acme.example"]
    words += {"none": [], "starttls": ["--tls"], "implicit": ["--tls-on-connect"]}[tls]
    if auth == "required":
        words += ["--auth", mechanism, "--auth-user", "app", "--auth-password", "correct horse"]
    with front_door(tmp_path, tls=tls, auth=auth) as door:
        words += ["--port", str(door.port), "--data", "-"]
        for to in (TO[:1], TO):
            text = b"Subject: x\n\n.a line with a dot\n..two\n"
            said = run(*words, "--to", ",".join(to), text=text)
            assert "<-  250 2.0.0 relayed" in said.replace("<~", "<-")
            check(door, tls, authenticated=auth == "required", to=to)


@pytest.mark.parametrize("tls", KINDS)
def test_curl(tmp_path: Path, tls: Tls) -> None:
    assert shutil.which("curl"), "curl is missing: `make setup-test` installs it"
    auth: Auth = "none" if tls == "none" else "required"
    with front_door(tmp_path, tls=tls, auth=auth) as door:
        scheme = "smtps" if tls == "implicit" else "smtp"
        words = [
            "curl",
            "-sS",
            "-v",
            f"{scheme}://127.0.0.1:{door.port}/c.example",
            "--upload-file",
            "-",
        ]
        words += ["--mail-from", "app@acme.example"]
        if tls != "none":
            words += ["--ssl-reqd", "--insecure", "--user", "app:correct horse"]
        for to in (TO[:1], TO):
            people = [word for address in to for word in ("--mail-rcpt", address)]
            text = b"Subject: x\r\n\r\n.a line with a dot\r\n..two\r\n"
            run(*words, *people, text=text)
            check(door, tls, authenticated=auth == "required", to=to)


def test_openssl_finds_a_sound_tls(tmp_path: Path) -> None:
    assert shutil.which("openssl"), "openssl is missing: `make setup-test` installs it"
    with front_door(tmp_path, tls="starttls") as door:
        said = run(
            *("openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{door.port}"),
            *("-brief", "-crlf", "-quiet", "-ign_eof"),
            text=b"EHLO c.example\nQUIT\n",
        )
        assert "250-ENHANCEDSTATUSCODES" in said
        assert "221 2.0.0 bye" in said
