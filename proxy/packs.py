"""The packs as files: those that ship with Sluis, and an operator's own beside them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

from policy.pack import PackError, Packs, load_pack, packs_from


@cache
def builtin_packs() -> Packs:
    """The packs that ship with Sluis."""
    folder = resources.files("policy") / "packs"
    sources = {
        item.name: item.read_text("utf-8")
        for item in folder.iterdir()
        if item.name.endswith(".toml")
    }
    return packs_from(sources, ZoneInfo)


def pack_texts(directory: Path | None) -> dict[str, tuple[str, str]]:
    """Of each pack that `load_packs` gives: the name of its file, and its text, by id.

    Raises as `load_packs` does.
    """
    folder = resources.files("policy") / "packs"
    texts = {
        id_: (f"policy/packs/{id_}.toml", (folder / f"{id_}.toml").read_text("utf-8"))
        for id_ in builtin_packs().by_id
    }
    for file in sorted(directory.glob("*.toml")) if directory is not None else ():
        text = file.read_text("utf-8")
        texts[load_pack(text, name=str(file), zones=ZoneInfo).id] = (file.name, text)
    return texts


def load_packs(directory: Path | None) -> Packs:
    """The shipped packs, with those of `directory` added or put in place of the same id.

    Raises `PackError` (file, line, key) or `OSError`.
    """
    if directory is None:
        return builtin_packs()
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise PackError(str(directory), 0, "", "no pack (*.toml) in this directory")
    own: dict[str, str] = {}
    by_id = dict(builtin_packs().by_id)
    for file in files:
        pack = load_pack(file.read_text("utf-8"), name=str(file), zones=ZoneInfo)
        if pack.id in own:
            raise PackError(str(file), 0, "id", f"{own[pack.id]} holds a pack {pack.id} already")
        own[pack.id] = str(file)
        by_id[pack.id] = pack
    return Packs(by_id)
