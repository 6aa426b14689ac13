"""Secrets that stand in files of their own, and what makes a stored password usable."""

from __future__ import annotations

from pathlib import Path

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError

from proxy.config.layers import Draft, Raw

_MAX = 4096


def read_secrets(draft: Draft, *, files: bool = True) -> None:
    """Put the content of each `password_file` where the models expect it.

    Without `files` those of credentials are not looked at, and one that cannot be used is no
    problem: its upstream has no password then.
    An upstream gets `password`; a credential gets `password_hash`: the file's content if that is an
    Argon2 hash already, else the hash of it, so that the password itself is not kept in memory.
    """
    for section, target in (("upstreams", "password"), ("credentials", "password_hash")):
        if not files and section == "credentials":
            continue
        entries = draft.raw.get(section)
        for n, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict) and isinstance(entry.get("password_file"), str):
                _read(draft, f"{section}.{n}", entry, target, files=files)


def _read(draft: Draft, prefix: str, entry: Raw, target: str, *, files: bool) -> None:
    key = f"{prefix}.password_file"
    if target in entry:
        draft.add(key, f"is given beside {target}", "keep one of the two")
        return
    add = draft.add if files else _no_problem
    try:
        with Path(entry["password_file"]).open("rb") as file:
            secret = file.read(_MAX + 1).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        add(key, f"cannot be read ({reason})", "make the file, readable for this user only")
        return
    except (UnicodeDecodeError, ValueError):
        add(key, "is not UTF-8 text", "put one line with the secret in it")
        return
    if not secret or len(secret) > _MAX or not secret.isprintable():
        add(key, "does not hold one line of text", "put one line with the secret in it")
        return
    draft.sources[f"{prefix}.{target}"] = f"{draft.sources.get(key, draft.path)} (password_file)"
    entry[target] = secret
    if target == "password_hash" and not secret.startswith("$argon2"):
        entry[target] = PasswordHasher().hash(secret)


def _no_problem(key: str, what: str, remedy: str) -> None:
    """For a command that does not need the file."""


def usable_hash(text: str) -> bool:
    """Whether `text` is an Argon2 hash that a password can be verified against."""
    try:
        extract_parameters(text)
    except InvalidHashError:
        return False
    return True
