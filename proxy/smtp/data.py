"""The octets between 354 and the end of data (RFC 5321 4.1.1.4), chunk by chunk.

Only CRLF ends a line and only CRLF.CRLF ends the data; nothing else is taken for it, because the
next server may read it otherwise (SMTP smuggling). A bare CR or LF is a fault, or, where asked for,
made into what the next server reads in one way only: a bare LF ends its line like CRLF, a bare CR
is a space. What is wrong is remembered until the real end, so that the reply answers the whole
message and the client stays in step; from then on nothing is kept but a few octets. How the octets
were cut into chunks never changes the result.

Every octet of a large mail comes by here, so what is looked for in all of them is looked for by
what C does in one pass: one for the kinds of line ends, one for a dot that begins a line (none
where there is no dot at all), and leaps from line to line.
"""

from __future__ import annotations

import io
import re

from proxy.content import Content, Spool
from proxy.replies import Reply
from proxy.smtp import replies

_END = b"\r\n.\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_DOT = b"\r\n."  # a stuffed dot, or the end
_SOUND = (None, "\r\n")  # what the lines may end in: none has ended yet, or all in CRLF
_NARROW = 32  # octets of a line with CRLF, from which on the column of its LF is worth reading
_SLACK = 65536  # octets read beyond twice the size limit before giving up on the client


class Incoming:
    """One message on its way in. Feed until it is `True`; then `content` or `fault`, and `rest`.

    `size_limit` and `line_limit` are octets; a line is counted without CRLF and without a stuffed
    dot, and as it is after normalising. With `normalise` the content has no bare CR or LF.
    """

    def __init__(
        self, *, size_limit: int, line_limit: int, spool: Spool, normalise: bool = False
    ) -> None:
        self._normalise = normalise
        self._size_limit = size_limit
        self._line_limit = line_limit
        self._spool = spool
        self._virtual = 2  # octets of the CRLF that ended DATA, which is not content
        self._carry = (
            b"\r\n"  # starts at the last CRLF seen; in a line far too long, its last octets
        )
        self._size = 0
        self._bare = self._nul = self._long = self._no_room = False
        self.received = 0
        self.rest = b""

    @property
    def overrun(self) -> bool:
        """So far beyond the limit that reading on to the end serves nobody."""
        return self.received > 2 * self._size_limit + _SLACK

    @property
    def fault(self) -> Reply | None:
        """The refusal that the message earned, the same whatever the order of its faults."""
        if self._size > self._size_limit:
            return replies.TOO_BIG
        if self._bare:
            return replies.BARE_IN_DATA
        if self._nul:
            return replies.NUL_IN_DATA
        if self._long:
            return replies.LONG_LINE
        if self._no_room:
            return replies.NO_ROOM
        return None

    @property
    def size(self) -> int:
        """Octets of the message so far."""
        return self._size

    def content(self) -> Content:
        """Hand over the message, once: CRLF lines, dots unstuffed. Empty after a fault."""
        return self._spool.take()

    def feed(self, chunk: bytes) -> bool:
        """Take more octets; True when the end was among them: then `rest` is what came after it."""
        self.received += len(chunk)
        data = self._carry + chunk
        dot = data.find(b".")
        if dot >= 0:
            dot = data.find(_DOT, max(0, dot - 2))
        end = data.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            self.rest = data[end + 5 :]
            self._take(data, end + 2, dots=dot < end)
            return True
        cut = data.rfind(b"\n" if self._normalise else b"\r\n")
        if self._normalise and cut > 0 and data[cut - 1] == 0x0D:
            cut -= 1
        if cut >= 0:
            self._take(data, cut, dots=0 <= dot < cut)
            data = data[cut:]
        # CRLF, a stuffed dot and a CR may stand beside the octets of a line that is just short
        # enough.
        if len(data) > self._line_limit + 4:
            self._long = True
            cut = len(data) - 1  # the last octet may be the CR of the CRLF to come
            self._take(data, cut, dots=dot >= 0)
            data = data[cut:]
        self._carry = data
        return False

    def _take(self, data: bytes, end: int, *, dots: bool) -> None:
        """Judge and keep `data[:end]`: CRLF, line, CRLF, line; the last CRLF may be missing.

        Without `dots` no line of it begins with a dot.
        """
        if end <= 0:
            return
        text = str(memoryview(data)[:end], "latin-1")
        # Made for text files, it tells which of CR, LF and CRLF it has met.
        lines = io.IncrementalNewlineDecoder(None, translate=False)
        lines.decode(text, final=True)
        if lines.newlines not in _SOUND:
            if self._normalise:
                # As Postfix does it; lines that end in CR CR LF are not doubled.
                data = _BARE_CR.sub(b" ", _BARE_LF.sub(b"\r\n", data[:end]))
                end = len(data)
                dots = True
            else:
                self._bare = True
        if "\0" in text:
            self._nul = True
        if dots:
            data = data[:end].replace(_DOT, b"\r\n")
            end = len(data)
        if not self._long and self._has_long_line(data, end):
            self._long = True
        self._size += end - self._virtual
        if self.fault is not None:
            self._spool.close()
        else:
            kept = memoryview(data)[self._virtual : end]
            try:
                self._spool.write(kept, ascii_only=text.isascii(), dots=dots)
            except OSError:
                self._no_room = True
                self._spool.close()
        self._virtual = 0

    def _has_long_line(self, data: bytes, end: int) -> bool:
        """Leap from line to line by the last LF within reach: a step per kilobyte, not per line.

        Where the lines before the end have LF in one column, as those of an attachment, it is the
        column that is read.
        """
        start, reach = 2, self._line_limit
        last = data.rfind(b"\n", 0, end)
        if end - last - 1 > reach:
            return True
        width = last - data.rfind(b"\n", 0, last)
        if _NARROW <= width <= min(last, reach + 2):
            column = data[last % width : last + 1 : width]
            last -= width * (len(column) - len(column.rstrip(b"\n")) - 1)
        end = last - 1  # where the CRLF begins that the lines not looked at yet end with
        while start + reach + 1 < end:
            # A line of exactly the limit has its CRLF at `reach`.
            start = data.rfind(b"\n", start, start + reach + 2) + 1
            if not start:
                return True
        return start + reach < end and data.rfind(b"\n", start, end) < 0
