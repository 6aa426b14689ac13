"""From the raw table to models, table by table, and the words for what is wrong with a value."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import layers
from proxy.config.checks import Parts
from proxy.config.layers import Draft
from proxy.config.models import Settings, Table

LISTS = ("listeners", "upstreams", "senders", "streams", "credentials", "api_tokens")

Sections = dict[str, dict[int, Table]]


def validate(draft: Draft) -> Sections:
    """Each table by itself, so that one bad table does not hide what is wrong elsewhere."""
    known = layers.fields(Settings)
    for name in draft.raw:
        if name not in known:
            draft.add(
                name, f"is no section{layers.suggestion(Settings, name)}", "correct or remove it"
            )
    sections: Sections = {}
    for name, inner in known.items():
        if inner.table is None:
            continue
        content = draft.raw.get(name, [] if inner.many else {})
        if not inner.many:
            entries = {name: content}
        elif isinstance(content, list):
            entries = {f"{name}.{n}": entry for n, entry in enumerate(content)}
        else:
            draft.add(name, "must be a list of tables", f"write [[{name}]] with two brackets")
            entries = {}
        made = [_one(draft, key, inner.table, entry) for key, entry in entries.items()]
        sections[name] = {n: table for n, table in enumerate(made) if table is not None}
    return sections


def _one(draft: Draft, key: str, table: type[Table], content: object) -> Table | None:
    if not isinstance(content, dict):
        draft.add(key, "must be a table", f"write {_heading(key)} and its keys below")
        return None
    try:
        return table.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in details:
        _report(draft, key, table, detail)
    if all(d["type"] == "extra_forbidden" and len(d["loc"]) == 1 for d in details):
        # An unknown key hides nothing: go on, so that the other checks see this table too.
        return table.model_validate({k: v for k, v in content.items() if k in table.model_fields})
    return None


def _report(draft: Draft, prefix: str, table: type[Table], detail: ErrorDetails) -> None:
    path = [str(part) for part in detail["loc"]]
    key = ".".join([prefix, *(p for p in path if p not in ("[key]",))])
    if key in draft.keys:
        return
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "sluis":
        draft.add(key, str(context["what"]), str(context["remedy"]))
    elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
        near = layers.suggestion(table, path[-1]) if len(path) == 1 else ""
        draft.add(key, f"is no key{near}", "correct or remove it")
    elif kind == "missing":
        draft.add(key, "is missing", f"add it to {_heading(prefix)}")
    elif kind in ("literal_error", "enum"):
        draft.add(key, f"is {_shown(detail)}", f"must be {context['expected']}")
    else:
        words = _WORDS[kind].format(**context) if kind in _WORDS else detail["msg"]
        draft.add(key, f"is {_shown(detail)}", words)


_WORDS = {
    "string_type": "must be text: write it in quotes",
    "int_type": "must be a whole number without quotes",
    "bool_type": "must be true or false, without quotes",
    "tuple_type": 'must be a list: ["..."]',
    "mapping_type": "must be a table: {{ name = value }}",
    "dict_type": "must be a table: {{ name = value }}",
    "greater_than_equal": "must be at least {ge}",
    "string_pattern_mismatch": "must match {pattern}",
    "dataclass_type": 'must be a list of products, or {{ products = ["..."], reviewer = "..." }}',
}


def _heading(prefix: str) -> str:
    section, _, index = prefix.partition(".")
    return f"[[{section}]] number {int(index) + 1}" if index else f"[{section}]"


def _shown(detail: ErrorDetails) -> str:
    """The value's kind, and the value itself only where it cannot be a secret."""
    value: Any = detail["input"]
    if detail["type"] in ("literal_error", "enum", "greater_than_equal", "string_pattern_mismatch"):
        return f'"{value}"' if isinstance(value, str) else str(value).lower()
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a fraction"}
    return next((word for kind, word in kinds.items() if type(value) is kind), "something else")


def parts(draft: Draft, sections: Sections) -> Parts:
    def written(section: str) -> frozenset[str]:
        entries = draft.raw.get(section)
        entries = entries if isinstance(entries, list) else []
        ids = (entry.get("id") for entry in entries if isinstance(entry, dict))
        return frozenset(id_ for id_ in ids if isinstance(id_, str))

    def single(section: str) -> Any:
        return sections[section].get(0)

    many: dict[str, Any] = {name: sections[name] for name in LISTS}
    counts = {
        name: len(found) if isinstance(found := draft.raw.get(name), list) else 0 for name in LISTS
    }
    return Parts(
        server=single("server"),
        http=single("http"),
        delivery=single("delivery"),
        retention=single("retention"),
        limits=single("limits"),
        policy=single("policy"),
        dkim=single("dkim"),
        sender_ids=written("senders"),
        stream_ids=written("streams"),
        counts=counts,
        **many,
    )
