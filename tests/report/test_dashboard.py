"""What the dashboard sends to Weights & Biases, by a stub of its API."""

import json
from types import SimpleNamespace

import pytest
import wandb

from mtmamba.config.checks import ConfigError
from mtmamba.config.compose import compose
from mtmamba.paper import TABLES
from mtmamba.report.dashboard import dashboard
from mtmamba.report.workspace import comparison

TABLE2 = next(table for table in TABLES if table.number == "2")


def a_run(state="finished", decoder="mtmamba", tasks=("semseg", "depth", "normals", "edge"), **scores):
    choices = {"data": "nyud", "encoder": "swin_large", "decoder": decoder, "ablation": "none"}
    summary = {f"row/{name}": value for name, value in scores.items()}
    return SimpleNamespace(state=state, config={"choices": choices, "tasks": list(tasks)}, summary=summary)


class Server:
    """Answers what the two libraries ask, and keeps it."""

    def __init__(self):
        self.asked = []
        self.app_url = "https://example.org"

    def execute_graphql(self, query, variables=None):
        if "spec" not in variables:
            return {"project": {"id": "PROJECT", "internalId": "1"}}
        self.asked.append(variables)
        view = {"id": "VIEW", "name": variables["name"], "displayName": variables["displayName"], "description": ""}
        view |= {"spec": variables["spec"], "project": {"name": variables["projectName"], "entityName": "team"}}
        view |= {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00", "type": "runs"}
        return {"upsertView": {"view": view, "inserted": True}}


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("wandb_workspaces")
    server = Server()

    class Api:
        default_entity = "me"
        client = SimpleNamespace(app_url=server.app_url, execute=lambda _, variable_values: server.execute_graphql(
            "", variable_values))  # fmt: skip

        def __init__(self):
            vars(self)["_service_api"] = server

        def runs(self, path):
            server.asked.append({"runs": path})
            return [a_run(**{"semseg/mIoU": 50.0}), a_run(**{"semseg/mIoU": 52.0})]

        def projects(self, entity):
            return [SimpleNamespace(name="rooms")]

    monkeypatch.setattr(wandb, "Api", Api)
    return server


def words(spec):
    """Every string of a specification."""
    if isinstance(spec, dict):
        return [word for value in spec.values() for word in words(value)]
    if isinstance(spec, list):
        return [word for value in spec for word in words(value)]
    return [spec] if isinstance(spec, str) else []


def test_a_workspace_and_a_report_are_saved(server):
    dashboard(compose(["project=rooms", "entity=team"], "dashboard"))
    asked, view, report = server.asked
    assert asked == {"runs": "team/rooms"}
    assert (view["type"], view["entityName"], view["projectName"]) == ("project-view", "team", "rooms")
    assert view["displayName"] == report["displayName"] == f"Table 2: {TABLE2.title}"
    assert report["type"] == "runs"

    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    names = [section["name"] for section in sections]
    assert names[:6] == ["Table", "Semantic segmentation", "Depth", "Surface normals", "Boundaries", "Pictures"]
    depth = words(sections[2])
    assert {"depth/val/RMSE", "depth/train/loss", "trainer/global_step"} <= set(depth)
    assert not [word for word in depth if word.startswith("semseg/")]

    text = "\n".join(words(json.loads(report["spec"])))
    assert r"| 2\*STM+1\*CTM | 51 (2) | 55.82 |" in text
    assert "row/edge/odsF" in text


def test_the_papers_rows_have_our_means_beside_them():
    runs = [
        a_run(**{"semseg/mIoU": 50.0, "depth/RMSE": 0.5, "delta_m": 1.0}),
        a_run(**{"semseg/mIoU": 53.0, "depth/RMSE": 0.6, "delta_m": 2.0}),
        a_run(state="crashed", **{"semseg/mIoU": 1.0}),
        a_run(decoder="swin2", tasks=["depth"], **{"depth/RMSE": 0.7, "delta_m": -9.0}),
        a_run(decoder="stm3", tasks=["semseg"], **{"semseg/mIoU": 2.0}),
        SimpleNamespace(state="finished", config={"lr": 1}, summary={"row/semseg/mIoU": 3.0}),
    ]
    lines = {line.split(" | ")[0].strip("| "): line for line in comparison(TABLE2, runs).splitlines()[2:]}
    mtmamba = lines[r"2\*STM+1\*CTM"]
    assert mtmamba.startswith(r"| 2\*STM+1\*CTM | 51.5 (2) | 55.82 | 0.55 (2) | 0.5066 | - | 18.63 | - | 78.70 |")
    assert mtmamba.endswith("| 1.5 (2) | +2.38 |")
    single = lines[r"Single-task 2\*Swin"]
    assert "| - | 54.32 | 0.7 (1) | 0.5166 |" in single
    assert single.endswith("| - | 0.00 |")
    assert lines[r"3\*STM"].startswith(r"| 3\*STM | - |")


def test_an_unknown_table_is_refused():
    with pytest.raises(ConfigError, match=r"Expected table to be one of 1, NYUDv2; .*, got 9"):
        dashboard(compose(["project=rooms", "table=9"], "dashboard"))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("mtmamba.report.dashboard.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mtmamba\[dashboard\]'"):
        dashboard(compose(["project=rooms"], "dashboard"))
