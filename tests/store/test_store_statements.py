"""The texts that the store runs are those that SQLAlchemy makes of `proxy/store/statements`."""

from __future__ import annotations

import importlib

import pytest

from proxy.store.query import Query
from proxy.store.statements import write

NAMES = sorted(path.stem for path in write.texts() if path.stem != "tables")


def test_the_texts_are_up_to_date() -> None:
    found = [path.name for path in write.stale()]
    assert found == [], "proxy/store/sql differs from proxy/store/statements: run `make statements`"


@pytest.mark.parametrize("name", NAMES)
def test_a_text_says_what_core_says(name: str) -> None:
    """Word for word: the lines that are broken for readers change nothing."""
    source = importlib.import_module(f"proxy.store.statements.{name}")
    made = importlib.import_module(f"proxy.store.sql.{name}")
    queries = {key: query for key, query in vars(source).items() if isinstance(query, Query)}
    assert queries
    for key, query in queries.items():
        text = getattr(made, key)
        assert text.sql.split() == query.sql.split(), key
        assert (text.names, text.constants) == (query.names, query.constants), key
        assert text.sql.count("?") == len(text.names), key


def test_a_literal_with_a_space_is_refused() -> None:
    """A line may break at any space."""
    with pytest.raises(ValueError, match="NOTE: lines may break"):
        list(write._statement("NOTE", Query("SELECT 'two words'")))
