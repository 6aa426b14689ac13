"""The countries there are: the officially assigned codes of ISO 3166-1 alpha-2 (249 of 2026), and
Kosovo's."""

from __future__ import annotations

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: The second letters by the first.
_ASSIGNED = {
    "A": "DEFGILMOQRSTUWXZ",
    "B": "ABDEFGHIJLMNOQRSTVWYZ",
    "C": "ACDFGHIKLMNORUVWXYZ",
    "D": "EJKMOZ",
    "E": "CEGHRST",
    "F": "IJKMOR",
    "G": "ABDEFGHILMNPQRSTUWY",
    "H": "KMNRTU",
    "I": "DELMNOQRST",
    "J": "EMOP",
    "K": "EGHIMNPRWYZ",
    "L": "ABCIKRSTUVY",
    "M": "ACDEFGHKLMNOPQRSTUVWXYZ",
    "N": "ACEFGILOPRUZ",
    "O": "M",
    "P": "AEFGHKLMNRSTWY",
    "Q": "A",
    "R": "EOSUW",
    "S": "ABCDEGHIJKLMNORSTVXYZ",
    "T": "CDFGHJKLMNORTVWZ",
    "U": "AGMSYZ",
    "V": "ACEGINU",
    "W": "FS",
    "Y": "ET",
    "Z": "AMW",
}

ASSIGNED = frozenset(first + second for first, rest in _ASSIGNED.items() for second in rest)

#: Kosovo. Of the codes left to users the only one that all mean the same by: the European
#: institutions, the register of IBANs, Unicode's CLDR, and so shops and their address forms.
KOSOVO = "XK"

CODES = ASSIGNED | {KOSOVO}

#: Left to users by ISO 3166-1 section 8.1.3: each may mean anything by them.
USER_ASSIGNED = frozenset(
    ["AA", "ZZ", *(f"Q{c}" for c in "MNOPQRSTUVWXYZ"), *(f"X{c}" for c in _LETTERS)]
) - {KOSOVO}
