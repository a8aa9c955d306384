"""The dashboard asks for what is told: by our meters, and by Ray itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from support.clusters import CLUSTER, ROOT

from raypose.runtime.meters import METERS, exported

BOARD: dict[str, Any] = json.loads((CLUSTER / "grafana/raypose.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
OURS = {name for meter in METERS for name in exported(meter)}
RAYS = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
OF_NODES = Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py"


def names(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def told_by_ray() -> set[str]:
    """What Ray's own dashboards ask for, and what the agents of its nodes say they tell."""
    found = set()
    for path in RAYS.glob("*.py"):
        found |= names(path.read_text())
    return found | {f"ray_{name}" for name in re.findall(r'"(node_\w+)"', OF_NODES.read_text())}


def test_every_query_asks_for_what_is_told() -> None:
    known = OURS | told_by_ray()
    assert len(QUERIES) > 30
    for query in QUERIES:
        assert names(query), query
        assert names(query) <= known, query
    assert not {name for name in told_by_ray() if "raypose" in name}


def test_every_meter_is_drawn() -> None:
    asked = set().union(*map(names, QUERIES))
    for meter in METERS:
        assert asked & set(exported(meter)), meter


@pytest.mark.parametrize("query", [query for query in QUERIES if "ray_raypose" in query])
def test_series_are_told_apart_by_what_they_bear(query: str) -> None:
    meters = [meter for meter in METERS if set(exported(meter)) & names(query)]
    borne = {tag for meter in meters for tag in METERS[meter].tags} | {"le"}
    grouped = {word.strip() for group in re.findall(r"by \(([^)]*)\)", query)
               for word in group.split(",")}  # fmt: skip
    matched = set(re.findall(r"(\w+)(?:=~|!=|=)\"", query))
    assert grouped | matched <= borne


def test_it_can_be_put_beside_others() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for name, each in variables.items():
        if name != "datasource":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", each["definition"])
            assert found
            assert found[1] in OURS | told_by_ray()
            assert found[2] == name
    used = set(re.findall(r"\$(\w+)", " ".join(QUERIES))) - {"__rate_interval"}
    assert used == set(variables) - {"datasource"}
    for panel in PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources)
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert "id" not in BOARD  # of an instance of Grafana


def test_panels_lie_beside_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_page_names_every_meter() -> None:
    page = (ROOT / "docs/watching.md").read_text()
    rows = dict(re.findall(r"^\| `(raypose_\w+)` \| (\w+) ", page, flags=re.MULTILINE))
    assert rows == {name: meter.kind for name, meter in METERS.items()}
