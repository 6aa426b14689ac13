"""The newsletter that all relays carry: multipart, with identity, address and an opt-out link.

They stand at its top, as Sluis reads half a megabyte of a part at most.

It has no Message-ID, as all copies of a run come from one file: with one, Sluis would answer the
second from its journal.
"""

from __future__ import annotations

import base64
from pathlib import Path
from random import Random

_HEADER = """\
From: Voorbeeld Schoenen <hello@news.shop.example>
To: Readers <readers@news.shop.example>
Subject: New running shoes for the autumn
Date: Tue, 24 Nov 2026 09:00:00 +0100
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="part-of-the-news"

"""
_ALTERNATIVE = 'Content-Type: multipart/alternative; boundary="part-of-the-news"'
_TEXT = """\
--part-of-the-news
Content-Type: text/plain; charset=utf-8

New running shoes are in. Look at them in the shop or on our pages.
{filler}
Voorbeeld Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam
Unsubscribe: https://news.shop.example/unsubscribe
"""
_HTML = """\
--part-of-the-news
Content-Type: text/html; charset=utf-8

<html><body><h1>New running shoes</h1>
<p>Voorbeeld Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam</p>
<p><a href="https://news.shop.example/unsubscribe">Unsubscribe</a></p>
{filler}
</body></html>
--part-of-the-news--
"""
_LINE = "These shoes are light and last for a thousand kilometres on any road.\n"
_PARAGRAPH = f'<p style="margin:0 0 1em">{_LINE.strip()}</p>\n'


def newsletter(folder: Path, octets: int, sender: str = "news") -> Path:
    """A file of about so many octets, with LF at the ends of lines as smtp-source wants it."""
    fixed = len(_HEADER) + len(_TEXT) + len(_HTML)
    rest = max(0, octets - fixed)
    text = _TEXT.format(filler=_LINE * (rest // 3 // len(_LINE)))
    html = _HTML.format(filler=_PARAGRAPH * (rest * 2 // 3 // len(_PARAGRAPH)))
    path = folder / f"{sender}-{octets}.eml"
    # smtp-source ends the last line itself.
    path.write_text((_HEADER.replace("news.shop", f"{sender}.shop") + text + html).rstrip("\n"))
    path.chmod(0o644)
    return path


def attached(folder: Path, octets: int) -> Path:
    """`newsletter` of 4 KB with a file attached that makes it about so large."""
    plain = newsletter(folder, 4096).read_text()
    fields, _, body = plain.partition(_ALTERNATIVE)
    lines = max(1, (octets - len(plain)) // 77)
    # Random, as a compressed picture is; the same in every run.
    noise = base64.b64encode(Random(7).randbytes(lines * 57)).decode()
    wrapped = "\n".join(noise[n : n + 76] for n in range(0, len(noise), 76))
    path = folder / f"attached-{octets}.eml"
    path.write_text(
        f'{fields}Content-Type: multipart/mixed; boundary="whole"\n\n--whole\n'
        f"{_ALTERNATIVE}{body}\n--whole\n"
        "Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n"
        f"Content-Disposition: attachment\n\n{wrapped}\n--whole--"
    )
    path.chmod(0o644)
    return path
