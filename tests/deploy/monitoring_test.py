"""Dashboards and rules are made of metrics that exist, and are what their sources say."""
import importlib.util
import json
import shutil
import subprocess

import pytest

import monitoring


def test_every_metric_and_label_is_documented():
    documented = monitoring.documented()
    assert len(documented) > 40
    used = set()
    for where, expression in monitoring.expressions():
        known = set(monitoring.OUTER_LABELS)
        for metric, labels in monitoring.selectors(expression):
            if metric == "up":
                continue
            assert metric in documented, f"{where}: {metric} is not in docs/metrics.md (or wants _bucket, _sum or _count)"
            used.add(metric)
            assert set(labels) <= documented[metric] | monitoring.OUTER_LABELS, f"{where}: labels of {metric}"
            known |= documented[metric]
        if ":" not in expression.replace("::", ""):  # series of our own rules carry what they were grouped by
            assert monitoring.grouped_labels(expression) <= known, where
    assert len(used) > 30


def test_recorded_series_are_recorded():
    recorded = {rule["record"] for rule in monitoring.rules() if "record" in rule}
    assert len(recorded) >= 8
    for rule in monitoring.rules():
        for word in rule["expr"].replace("(", " ").split():
            if word.startswith("baton:"):
                assert word in recorded


def test_alerts_say_what_to_do():
    for rule in monitoring.rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
            assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"]


def test_every_alert_has_a_unit_test():
    tests = (monitoring.ROOT / "tests" / "deploy" / "rules_test.yml").read_text()
    for rule in monitoring.rules():
        if "alert" in rule:
            assert rule["alert"] in tests, rule["alert"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's prometheus is not installed")
@pytest.mark.parametrize("arguments", [["check", "rules", "deploy/monitoring/rules.yml"],
                                       ["test", "rules", "tests/deploy/rules_test.yml"]])
def test_promtool(arguments):
    result = subprocess.run(["promtool", *arguments], cwd=monitoring.ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dashboards_are_what_their_source_makes():
    path = monitoring.MONITORING / "grafana" / "make_dashboards.py"
    spec = importlib.util.spec_from_file_location("make_dashboards", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sorted(module.DASHBOARDS) == [path.name for path in monitoring.DASHBOARDS]
    for path in monitoring.DASHBOARDS:
        assert path.read_text() == module.text(path.name), "run deploy/monitoring/grafana/make_dashboards.py"


@pytest.mark.parametrize("path", monitoring.DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_layout(path):
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 39
    cells = set()
    ids = set()
    for panel in dashboard["panels"]:
        ids.add(panel["id"])
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24
        mine = {(x, y) for x in range(position["x"], position["x"] + position["w"])
                for y in range(position["y"], position["y"] + position["h"])}
        assert not mine & cells, f"{panel['title']} overlaps another panel"
        cells |= mine
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            if panel["type"] == "heatmap":
                assert "by (le)" in target["expr"] and target["format"] == "heatmap"
    assert len(ids) == len(dashboard["panels"])
