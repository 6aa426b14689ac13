"""Three independent verifiers, offline: dkimpy, OpenDKIM and Perl's Mail::DKIM."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import dkim

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_PERL = r"""
use strict; use warnings;
use Mail::DKIM::Verifier; use Mail::DKIM::DNS;
my ($records, @files) = @ARGV;
my %txt;
open(my $in, '<', $records) or die;
while (<$in>) { chomp; my ($n, $t) = split /\t/; $txt{$n} = $t; }
{ package Answer; sub new { my ($c, $t) = @_; bless { t => $t }, $c }
  sub type { 'TXT' } sub txtdata { $_[0]{t} } sub char_str_list { ($_[0]{t}) } }
{ no warnings 'redefine';
  *Mail::DKIM::DNS::query = sub {
    my ($name) = @_; return exists $txt{lc $name} ? (Answer->new($txt{lc $name})) : (); };
  *Mail::DKIM::DNS::query_async = sub {
    my ($name, $type, %p) = @_; my @r = Mail::DKIM::DNS::query($name, $type);
    my $on = $p{Callbacks}{Success} || sub { $_[0] };
    return sub { return $on->(@r); }; }; }
for my $file (@files) {
  open(my $mail, '<:raw', $file) or die; local $/; my $data = <$mail>;
  my $v = Mail::DKIM::Verifier->new(); $v->PRINT($data); $v->CLOSE();
  my @r = map { ($_->algorithm || '') . '=' . ($_->result || '') } $v->signatures;
  print join(' ', @r), "\n";
}
"""


def by_dkimpy(content: bytes, records: Mapping[str, str]) -> list[bool]:
    """The verdict on each signature, from the top."""

    def answer(name: bytes, timeout: int = 5) -> bytes | None:
        found = records.get(name.decode().rstrip("."))
        return found.encode() if found else None

    mail = dkim.DKIM(content, minkey=1024)
    count = sum(1 for name, _ in mail.headers if name.lower() == b"dkim-signature")
    verdicts = []
    for n in range(count):
        try:
            verdicts.append(bool(dkim.DKIM(content).verify(idx=n, dnsfunc=answer)))
        except dkim.DKIMException:
            verdicts.append(False)
    return verdicts


def by_mail_dkim(
    folder: Path, contents: Sequence[bytes], records: Mapping[str, str]
) -> list[list[str]]:
    """For each mail `algorithm=result` of each signature, from the top."""
    names = folder / "records"
    names.write_text("".join(f"{name}\t{text}\n" for name, text in records.items()))
    ran = subprocess.run(
        ["perl", "-e", _PERL, str(names), *_write(folder, contents)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == len(contents), ran.stderr
    return [line.split() for line in lines]


def by_opendkim(folder: Path, contents: Sequence[bytes], records: Mapping[str, str]) -> list[bool]:
    """For each mail whether OpenDKIM finds a signature that holds (it stops at the first)."""
    names = folder / "keys"
    names.write_text("".join(f"{name} {text}\n" for name, text in records.items()))
    config = folder / "opendkim.conf"
    config.write_text(
        f"Mode v\nTestPublicKeys {names}\nLogWhy yes\nSyslog no\nAlwaysAddARHeader yes\n"
        "AuthservID test.example\nInternalHosts 192.0.2.1\n"
    )
    verdicts = []
    for path in _write(folder, contents, b"\n"):
        ran = subprocess.run(
            ["opendkim", "-x", str(config), "-vv", "-t", path],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        found = re.findall(r"dkim=(\w+)", ran.stdout + ran.stderr)
        assert found, ran.stdout + ran.stderr
        verdicts.append(found == ["pass"] * len(found))
    return verdicts


def _write(folder: Path, contents: Sequence[bytes], newline: bytes = b"\r\n") -> list[str]:
    paths = []
    for n, content in enumerate(contents):
        path = folder / f"mail{n}.eml"
        path.write_bytes(content.replace(b"\r\n", newline))
        paths.append(str(path))
    return paths
