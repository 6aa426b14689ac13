"""What Sisimai, a bounce reader of others, makes of a notice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

_PERL = r"""
use strict; use warnings; use JSON; use Sisimai;
my $read = Sisimai->make($ARGV[0]) || [];
print encode_json([map { {
  recipient => $_->recipient->address, action => $_->action, status => $_->deliverystatus,
  code => $_->replycode, remote => $_->rhost } } @$read]);
"""


def by_sisimai(folder: Path, notice: bytes) -> list[dict[str, Any]]:
    """Recipient, action, status, reply code and remote host of each bounce that it reads."""
    path = folder / "notice.eml"
    path.write_bytes(notice)
    ran = subprocess.run(
        ["perl", "-e", _PERL, str(path)], capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found
