"""A milter as an application's team would write it: one look-up per recipient, one header field.

Runs under Debian's Python with its python3-milter, not under ours; arguments: socket, database.
"""

import sqlite3
import sys

import Milter  # type: ignore[import-not-found]

_DATABASE = sys.argv[2]
# One for all threads: libmilter's are not Python's, and SQLite takes turns by itself.
_DB = sqlite3.connect(f"file:{_DATABASE}?mode=ro", uri=True, check_same_thread=False)


class Consent(Milter.Base):  # type: ignore[misc]
    """Refuses whoever is not in the table, and adds List-Unsubscribe."""

    def envrcpt(self, recipient, *_words):  # type: ignore[no-untyped-def]
        """RCPT TO."""
        query = "SELECT 1 FROM consent WHERE address = ?"
        if _DB.execute(query, (recipient.strip("<>").lower(),)).fetchone() is None:
            self.setreply("550", "5.7.1", "no consent")
            return Milter.REJECT
        return Milter.CONTINUE

    def eom(self):  # type: ignore[no-untyped-def]
        """End of the message."""
        self.addheader("List-Unsubscribe", "<https://news.shop.example/u/1>")
        return Milter.ACCEPT


Milter.factory = Consent
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("consent", sys.argv[1], 240)
