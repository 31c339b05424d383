"""The PromQL that ships: every expression of the rules and the dashboards, and the metrics and labels it names."""
import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
# Labels that Prometheus adds, and those of the rules' own series.
OUTER_LABELS = {"instance", "job", "le"}
_SELECTOR = re.compile(r"\b(baton_[a-z_]+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'\s*([a-z_]+)\s*(?:=~|!~|!=|=)\s*"[^"]*"\s*(?:,|$)')


def rules():
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(path):
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def expressions():
    """(where, PromQL) of everything, with Grafana's variables replaced."""
    out = [(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]
    for path in DASHBOARDS:
        for panel in panels(path):
            out += [(f"{path.name}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return [(where, expr.replace("$__rate_interval", "5m").replace("$model", ".*")) for where, expr in out]


def selectors(expression):
    """(metric without a histogram's suffix, labels that are matched)."""
    out = []
    for name, matchers in _SELECTOR.findall(expression):
        labels = _MATCHER.findall(matchers)
        assert _MATCHER.sub("", matchers).strip() == "", f"cannot read {{{matchers}}}"
        out.append((name, labels))
    return out


def grouped_labels(expression):
    return {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}


def documented():
    """{metric: labels} by docs/metrics.md, which all series' role belongs to."""
    out = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`(baton_[a-z_]+)`", cells[0]) if line.startswith("| `baton_") else []
        for name in names:
            out[name] = {"role"} | {label.strip() for label in cells[2].split(",")}
            if cells[1] == "histogram":
                for suffix in ("_bucket", "_sum", "_count"):
                    out[name + suffix] = out[name]
                del out[name]
    return out
