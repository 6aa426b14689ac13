"""Encoded words (RFC 2047), both ways, and which charsets are decoded at all.

Only charsets named here reach a codec: Python's list also holds `zip`, `punycode` and others that
are no character sets. `utf-7` hides ASCII from every filter and is left out on purpose.
"""

from __future__ import annotations

import base64
import binascii
import re

_CODEC = re.compile(
    r"us-ascii|ascii|utf-8|utf8|utf-16(?:le|be)?|utf-32(?:le|be)?|iso-8859-(?:[1-9]|1[013456])|latin-?1"
    r"|(?:windows-|cp)(?:125[0-8]|874)|koi8-[ru]|gb2312|gbk|gb18030|big5(?:-hkscs)?|euc-(?:jp|kr)"
    r"|shift_jis|ks_c_5601(?:-1987)?|tis-620|iso-2022-(?:jp|kr)|macintosh",
    re.IGNORECASE,
)
_ALIAS = {
    "ks_c_5601": "cp949",
    "ks_c_5601-1987": "cp949",
    "macintosh": "mac_roman",
    "windows-874": "cp874",
}

_WORD = re.compile(rb"=\?([!-)+->@-~]{1,60})(?:\*[!->@-~]{0,60})?\?([bBqQ])\?([!->@-~]*+)\?=")
# White space between two encoded words is not shown (RFC 2047 section 6.2).
_BETWEEN = re.compile(rb"(\?=)[ \t\r\n]+(?==\?[^? ]{1,125}\?[bBqQ]\?)")

_WORD_MAX = 75
_QUOTABLE = re.compile(r"[ -~]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def codec(charset: str) -> str | None:
    """The codec for a MIME charset name, None for one that is unknown or unsafe."""
    name = charset.strip().lower()
    return _ALIAS.get(name, name) if _CODEC.fullmatch(name) else None


def decode(value: bytes) -> str:
    """An unstructured value or phrase as text; what cannot be decoded stays as it is written."""
    if b"=?" not in value:
        return _plain(value)
    return "".join(
        _decode_word(part) if part.startswith(b"=?") else _plain(part)
        for part in _split(_BETWEEN.sub(rb"\1", value))
    )


def phrase(text: str) -> list[str]:
    """`text` as the words of a header phrase: atoms, a quoted string, or encoded words of 75 at
    most.

    Raises `ValueError` for a control character.
    """
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("control character in a header value")
    if _ATOMS.fullmatch(text):
        return text.split(" ")
    if _QUOTABLE.fullmatch(text):
        return ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"']
    words = []
    chunk = ""
    for char in text:
        if len(_encode_word(chunk + char)) > _WORD_MAX:
            words.append(_encode_word(chunk))
            chunk = ""
        chunk += char
    return [*words, _encode_word(chunk)]


def _encode_word(text: str) -> str:
    return f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="


def _split(value: bytes) -> list[bytes]:
    parts = []
    at = 0
    for match in _WORD.finditer(value):
        parts += [value[at : match.start()], match[0]]
        at = match.end()
    return [*parts, value[at:]]


def _decode_word(word: bytes) -> str:
    match = _WORD.fullmatch(word)
    name = codec(match[1].decode("ascii")) if match else None
    if match is None or name is None:
        return _plain(word)
    text = match[3]
    if match[2] in b"qQ":
        raw = binascii.a2b_qp(text, header=True)
    else:
        try:
            raw = binascii.a2b_base64(text + b"=" * (-len(text) % 4))
        except binascii.Error:
            return _plain(word)
    return raw.decode(name, "replace")


def _plain(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
