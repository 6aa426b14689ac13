"""The record of the bench, and the page made from it."""

from __future__ import annotations

import pytest

from bench.peers import ROWS
from bench.race import page
from bench.race.curves import CURVES
from bench.race.judge import Row
from bench.race.process import BenchError

MARKS = "".join(
    f"<!-- bench.{n}: begin -->\nold {n}\n<!-- bench.{n}: end -->\n" for n in page.PARTS
)


def record() -> dict[str, object]:
    judged, refused = Row("b", "second"), Row("a", "first")
    judged.add(2.0, "two")
    refused.refused = 3
    return {
        "machine": "fdatasync of this disk: 0.10 ms",
        "rows": {"late": [page.entry(judged)], "early": [page.entry(refused)]},
    }


def test_rows_stand_in_the_order_of_the_bench_and_name_the_disk_and_what_peers_lack() -> None:
    text = page.rendered(f"before\n{MARKS}after\n", record(), ("early", "late"))
    assert text.startswith("before\n<!-- bench.peers: begin -->\nMedian and range")
    assert text.index("| first |") < text.index("| second |")
    assert "fdatasync of this disk: 0.10 ms" in text
    assert "Postfix queue, one recipient a delivery" in text
    assert "old peers" not in text
    assert "old curves" in text  # nothing recorded: left as it is
    assert text.endswith("after\n")


def test_the_page_can_be_made_again_from_the_same_record() -> None:
    once = page.rendered(MARKS, record(), ("early", "late"))
    assert page.rendered(once, record(), ("early", "late")) == once


def test_only_judged_rows_can_be_compared_with() -> None:
    assert set(page.medians(record())) == {"b"}


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(BenchError, match="lacks"):
        page.rendered("nothing here", record(), ())


def test_the_page_of_the_repository_is_what_its_record_says() -> None:
    text = page.PAGE.read_text()
    assert page.rendered(text, page.recorded(), tuple(ROWS)) == text


def test_what_is_recorded_can_be_run_again() -> None:
    held = page.recorded()
    assert set(held.get("rows", {})) <= set(ROWS)
    assert set(held.get("curves", {})) <= set(CURVES)
