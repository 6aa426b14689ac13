"""The codes of countries are those of ISO 3166-1, as the time zone database has them."""

from __future__ import annotations

import string
from importlib.resources import files

from proxy.config.countries import ASSIGNED, CODES, USER_ASSIGNED


def test_every_assigned_code_and_kosovo() -> None:
    table = files("tzdata").joinpath("zoneinfo/iso3166.tab").read_text("utf-8")
    assigned = {line.split("\t")[0] for line in table.splitlines() if line[:1] not in ("#", "")}
    assert assigned == ASSIGNED
    assert {"XK"} == CODES - ASSIGNED, "Kosovo: everybody means the same by it"
    assert not CODES & USER_ASSIGNED
    assert len(USER_ASSIGNED) == 2 + 14 + 25
    assert all(c[0] in string.ascii_uppercase and len(c) == 2 for c in USER_ASSIGNED)
