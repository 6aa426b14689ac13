"""The Grafana dashboard as a document: its shape, its words, and its grid."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "config/grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "sluis.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
DATA = [panel for panel in PANELS if panel["type"] != "row"]

SOURCE = {"const": {"type": "prometheus", "uid": "${datasource}"}}
GRID = {
    "type": "object",
    "required": ["x", "y", "w", "h"],
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "y": {"type": "integer", "minimum": 0},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "h": {"type": "integer", "minimum": 1},
    },
}
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["row", "stat", "timeseries", "table"]},
        "title": {"type": "string", "minLength": 3},
        "gridPos": GRID,
    },
    "if": {"properties": {"type": {"const": "row"}}},
    "else": {
        "required": ["description", "datasource", "fieldConfig", "options", "targets"],
        "properties": {
            "description": {"type": "string", "minLength": 20},
            "datasource": SOURCE,
            "fieldConfig": {
                "type": "object",
                "properties": {
                    "defaults": {"type": "object", "required": ["unit"]},
                    "overrides": {"type": "array"},
                },
                "required": ["defaults", "overrides"],
            },
            "targets": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["refId", "expr", "datasource"],
                    "properties": {
                        "refId": {"type": "string", "pattern": "^[A-Z]$"},
                        "expr": {"type": "string", "minLength": 1},
                        "datasource": SOURCE,
                    },
                },
            },
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "annotations"],
    "properties": {
        "uid": {"const": "sluis-overview"},
        "id": {"type": "null"},
        "schemaVersion": {"type": "integer", "minimum": 41},
        "panels": {"type": "array", "items": PANEL},
        "templating": {
            "type": "object",
            "properties": {
                "list": {
                    "type": "array",
                    "items": {"type": "object", "required": ["name", "type", "query"]},
                }
            },
            "required": ["list"],
        },
    },
}


def test_dashboard_matches_the_schema() -> None:
    jsonschema.validate(BOARD, SCHEMA)


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in PANELS]
        assert len(values) == len(set(values))
    for panel in DATA:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


def test_every_line_has_a_name() -> None:
    for panel in DATA:
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_variables_that_are_used_exist() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "stream"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in DATA:
        for target in panel["targets"]:
            assert "$instance" in target["expr"], panel["title"]


def test_panels_lie_side_by_side_without_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        return set(
            itertools.product(
                range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
            )
        )

    for one, other in itertools.combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


@pytest.mark.parametrize(
    ("file", "key"),
    [("datasources/prometheus.yml", "datasources"), ("dashboards/sluis.yml", "providers")],
)
def test_provisioning(file: str, key: str) -> None:
    document = yaml.safe_load((FOLDER / "provisioning" / file).read_text())
    assert document["apiVersion"] == 1
    (entry,) = document[key]
    assert entry["type"] == ("prometheus" if key == "datasources" else "file")
