#!/usr/bin/env python3
"""Writes Baton's Grafana dashboards as JSON into dashboards/ beside this file.

Panels are described here, a line or two each; ids, positions and Grafana's boilerplate follow. Change this file, run it,
and commit both: tests/deploy/monitoring_test.py compares, and checks every query against docs/metrics.md.
"""
import json
import pathlib

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana 10.4 and later.
SCHEMA_VERSION = 39
MODEL = 'model=~"$model"'
RATE = "$__rate_interval"
# The columns of Grafana's grid, and the height of a graph in it.
WIDTH = 24
HEIGHT = 8


def rate(metric, labels="", by=""):
    matchers = ", ".join(filter(None, [MODEL, labels]))
    return f"sum by ({by or 'model'}) (rate({metric}{{{matchers}}}[{RATE}]))"


def quantiles(metric, labels="", by="model"):
    matchers = ", ".join(filter(None, [MODEL, labels]))
    legend = " ".join("{{" + label + "}}" for label in by.split(", "))
    return [(f"histogram_quantile({q / 100:g}, sum by (le, {by}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))",
             f"{legend} p{q}") for q in (50, 95, 99)]


def mean(metric, labels="", by="model"):
    return f"{rate(metric + '_sum', labels, by)} / {rate(metric + '_count', labels, by)}"


def panel(kind, title, description, unit, queries, width, height, **more):
    targets = [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend,
                "editorMode": "code", "range": True} for i, (expr, legend) in enumerate(queries)]
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets,
            "gridPos": {"w": width, "h": height}, "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            **more}


def graph(title, unit, queries, description="", width=8, stacked=False, maximum=None):
    out = panel("timeseries", title, description, unit, queries, width, HEIGHT,
                options={"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                         "tooltip": {"mode": "multi", "sort": "desc"}})
    out["fieldConfig"]["defaults"].update({
        "min": 0,
        "custom": {"drawStyle": "line", "fillOpacity": 30 if stacked else 5, "showPoints": "never", "lineWidth": 1,
                   "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}})
    if maximum is not None:
        out["fieldConfig"]["defaults"]["max"] = maximum
    return out


def heatmap(title, unit, metric, description="", width=12):
    expr = f"sum by (le) (increase({metric}_bucket{{{MODEL}}}[{RATE}]))"
    out = panel("heatmap", title, description, unit, [(expr, "{{le}}")], width, HEIGHT,
                options={"calculate": False, "cellGap": 1, "yAxis": {"axisPlacement": "left", "unit": unit},
                         "rowsFrame": {"layout": "auto"}, "showValue": "never", "legend": {"show": True},
                         "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5,
                                   "fill": "dark-orange", "reverse": False},
                         "filterValues": {"le": 1e-9}, "tooltip": {"mode": "single", "yHistogram": False}})
    out["targets"][0]["format"] = "heatmap"
    return out


def stat(title, unit, expr, description="", thresholds=(), width=4):
    out = panel("stat", title, description, unit, [(expr, "")], width, 4,
                options={"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                         "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": "auto"})
    steps = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in thresholds]
    out["fieldConfig"]["defaults"]["thresholds"] = {"mode": "absolute", "steps": steps}
    return out


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1}}


def place(panels):
    """Left to right, top to bottom; a row of panels is as high as its first."""
    x = y = height = 0
    for index, item in enumerate(panels):
        position = item["gridPos"]
        if x + position["w"] > WIDTH:
            x, y = 0, y + height
        if x == 0:
            height = position["h"]
        item["id"] = index + 1
        item["gridPos"] = {"x": x, "y": y, **position}
        x += position["w"]
    return panels


def dashboard(uid, title, description, panels):
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {},
         "hide": 0, "refresh": 1, "regex": "", "options": [], "multi": False, "includeAll": False},
        {"name": "model", "label": "Model", "type": "query", "datasource": DATASOURCE,
         "definition": "label_values(baton_requests_running, model)",
         "query": {"query": "label_values(baton_requests_running, model)", "refId": "model"},
         "current": {"text": "All", "value": "$__all"}, "hide": 0, "refresh": 2, "regex": "", "sort": 1, "options": [],
         "multi": True, "includeAll": True, "allValue": ".*"},
    ]
    return {"uid": uid, "title": title, "description": description, "tags": ["baton"], "schemaVersion": SCHEMA_VERSION,
            "version": 1, "editable": True, "graphTooltip": 1, "refresh": "10s", "timezone": "",
            "time": {"from": "now-1h", "to": "now"}, "timepicker": {}, "annotations": {"list": []},
            "links": [{"title": "Baton", "type": "dashboards", "tags": ["baton"], "asDropdown": False,
                       "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link",
                       "tooltip": "", "url": ""}],
            "templating": {"list": variables}, "panels": place(panels)}


FAILED = 'outcome=~"unavailable|deadline|data_loss|internal"'

OVERVIEW = [
    stat("Requests", "reqps", f"sum(rate(baton_requests_total{{{MODEL}}}[{RATE}]))"),
    stat("Failed", "percentunit",
         f"(sum(rate(baton_requests_total{{{MODEL}, {FAILED}}}[{RATE}])) or vector(0))"
         f" / sum(rate(baton_requests_total{{{MODEL}}}[{RATE}]))",
         "Requests that ended as unavailable, deadline, data_loss or internal.",
         thresholds=[(0.001, "orange"), (0.01, "red")]),
    stat("Running", "short", f'sum(baton_requests_running{{{MODEL}, role="gateway"}})'),
    stat("Waiting at gateways", "short", f'sum(baton_requests_waiting{{{MODEL}, role="gateway"}})',
         thresholds=[(1, "orange")]),
    stat("Tokens to clients", "short", f"sum(rate(baton_streamed_tokens_total{{{MODEL}}}[{RATE}]))", "A second."),
    stat("Workers not serving", "short",
         f'sum(max by (model, worker_role, state) (baton_workers{{{MODEL}, state!="serving"}})) or vector(0)',
         "As the gateway that sees most of them does.", thresholds=[(1, "red")]),

    row("Requests"),
    graph("Requests by outcome", "reqps", [(rate("baton_requests_total", by="outcome"), "{{outcome}}")], stacked=True),
    graph("Requests by model and method", "reqps",
          [(rate("baton_requests_total", by="model, method"), "{{model}} {{method}}")]),
    graph("Whole request", "s", quantiles("baton_request_seconds", 'method=~"generate|generate_stream"')),
    graph("Failures by kind", "reqps",
          [(rate("baton_requests_total", 'outcome!~"stop|length|ok|cancelled|time_limit"', "outcome, model"),
            "{{model}} {{outcome}}")], stacked=True,
          description="overloaded is an early refusal that the client may repeat; invalid and not_found are the client's."),
    graph("Retries and hedges on other workers", "ops",
          [(rate("baton_retries_total", by="model, stage"), "{{model}} {{stage}}"),
           (rate("baton_hedges_total", by="model, result"), "{{model}} hedge {{result}}")]),
    graph("Workers by state", "short",
          [(f"max by (model, worker_role, state) (baton_workers{{{MODEL}}})", "{{model}} {{worker_role}} {{state}}")],
          stacked=True),

    row("Latency, as clients see it"),
    heatmap("Time to first token", "s", "baton_time_to_first_token_seconds"),
    heatmap("Time between tokens", "s", "baton_inter_token_seconds"),
    graph("Time to first token", "s", quantiles("baton_time_to_first_token_seconds"), width=12),
    graph("Time between tokens", "s", quantiles("baton_inter_token_seconds"), width=12),
    graph("Where the first token's time goes: queue of the gateway", "s",
          quantiles("baton_queue_seconds", 'role="gateway"'), width=6),
    graph("... queue of prefill", "s", quantiles("baton_queue_seconds", 'role="prefill"'), width=6),
    graph("... computing the prompt", "s", quantiles("baton_prefill_seconds"), width=6),
    graph("... waiting for the handoff", "s", quantiles("baton_handoff_seconds", 'phase="exposed"'), width=6,
          description="Last chunk computed to verified by the decode worker. Delays the second token, not the first."),

    row("Clients with API keys, certificates"),
    graph("Requests by client", "reqps",
          [(f"sum by (client) (rate(baton_client_requests_total[{RATE}]))", "{{client}}")], stacked=True, width=6),
    graph("Tokens by client", "short",
          [(f"sum by (client, kind) (rate(baton_client_tokens_total[{RATE}]))", "{{client}} {{kind}}")], "A second.",
          stacked=True, width=6),
    graph("Calls without a good key", "ops",
          [(f"sum by (reason) (rate(baton_unauthenticated_calls_total[{RATE}]))", "{{reason}}")], stacked=True,
          width=6),
    graph("Certificates expire in", "s",
          [("min by (instance, use) (baton_tls_certificate_expiry_timestamp_seconds) - time()",
            "{{instance}} {{use}}")], width=6),

    row("Load"),
    graph("Running and waiting", "short",
          [(f'sum by (model) (baton_requests_running{{{MODEL}, role="gateway"}})', "{{model}} running"),
           (f'sum by (model) (baton_requests_waiting{{{MODEL}, role="gateway"}})', "{{model}} waiting")]),
    graph("Prompt tokens waiting for prefill", "short",
          [(f"sum by (model) (baton_queued_tokens{{{MODEL}}})", "{{model}}")],
          description="Divided by the computed tokens a second, the wait."),
    graph("State memory in use", "percentunit",
          [(f"max by (model, role) (baton_state_usage_ratio{{{MODEL}}})", "{{model}} {{role}}, fullest worker")],
          maximum=1),
    graph("Prompt lengths", "short", quantiles("baton_request_prompt_tokens"), width=12),
    graph("Output lengths", "short", quantiles("baton_request_output_tokens"), width=12),
]

WORKERS = [
    row("Prefill"),
    graph("Prompt tokens by source", "short",
          [(rate("baton_prompt_tokens_total", 'role="prefill"', "model, source"), "{{model}} {{source}}")],
          "A second: computed here, or found in the prefix cache.", stacked=True),
    graph("Queue of each worker", "short", [(f"baton_queued_tokens{{{MODEL}}}", "{{instance}} {{model}}")],
          "Prompt tokens accepted and not yet computed."),
    graph("Computing a prompt", "s", quantiles("baton_prefill_seconds")),
    graph("Step time", "s", quantiles("baton_step_seconds", 'role="prefill"')),
    graph("Tokens in a step, mean", "short", [(mean("baton_step_tokens", 'role="prefill"'), "{{model}}")]),
    graph("Busy", "percentunit",
          [(rate("baton_step_seconds_sum", by="instance, role"), "{{role}} {{instance}}")],
          "Share of the time each worker spends in steps, both roles.", maximum=1),

    row("Prefix cache"),
    graph("Prompt tokens found in the cache", "percentunit",
          [(f'sum by (model) (rate(baton_prompt_tokens_total{{{MODEL}, role="prefill", source="cached"}}[{RATE}]))'
            f' / sum by (model) (rate(baton_prompt_tokens_total{{{MODEL}, role="prefill"}}[{RATE}]))', "{{model}}")],
          maximum=1),
    graph("Lookups", "ops", [(rate("baton_prefix_cache_lookups_total", by="model, result"), "{{model}} {{result}}")],
          stacked=True),
    graph("Memory of the cache", "bytes", [(f"baton_prefix_cache_bytes{{{MODEL}}}", "{{instance}} {{model}}")],
          stacked=True),
    graph("Evictions", "ops", [(rate("baton_prefix_cache_evictions_total"), "{{model}}")], width=12),
    graph("Blocks and resume points", "short",
          [(f"sum by (model) (baton_prefix_cache_blocks{{{MODEL}}})", "{{model}} blocks"),
           (f"sum by (model) (baton_prefix_cache_resume_points{{{MODEL}}})", "{{model}} resume points")], width=12),

    row("Handoff"),
    graph("Bytes", "Bps", [(rate("baton_handoff_bytes_total", by="model, role"), "{{model}} {{role}}"),
                           (rate("baton_handoff_shared_bytes_total"), "{{model}} through shared memory")],
          "Prefill sends, decode receives: the two must be alike."),
    graph("Time, first byte to verified", "s", quantiles("baton_handoff_seconds", 'phase="total"')),
    graph("Time not hidden by computing", "s", quantiles("baton_handoff_seconds", 'phase="exposed"')),
    graph("Size of a state", "bytes", quantiles("baton_handoff_bytes"), width=12),
    graph("Failures", "ops",
          [(rate("baton_handoff_failures_total", by="model, role, reason"), "{{model}} {{role}} {{reason}}")],
          "cancelled is a client that went away.", width=12, stacked=True),

    row("Decode"),
    graph("Tokens sampled", "short", [(rate("baton_generation_tokens_total", by="model, role"), "{{model}} {{role}}")],
          "A second."),
    graph("Step time", "s", quantiles("baton_step_seconds", 'role="decode"')),
    graph("Sequences in a step, mean", "short", [(mean("baton_step_sequences", 'role="decode"'), "{{model}}")]),
    graph("Sequences of each worker", "short",
          [(f'baton_requests_running{{{MODEL}, role="decode"}}', "{{instance}} {{model}} running"),
           (f'baton_requests_waiting{{{MODEL}, role="decode"}}', "{{instance}} {{model}} waiting for state")], width=12),
    graph("Sequences by ending", "ops",
          [(rate("baton_sequences_finished_total", by="role, reason"), "{{role}} {{reason}}")], width=12),

    row("State memory"),
    graph("Share in use", "percentunit", [(f"baton_state_usage_ratio{{{MODEL}}}", "{{role}} {{instance}} {{model}}")],
          maximum=1),
    graph("Used and idle", "bytes",
          [(f"sum by (model, role) (baton_state_bytes_used{{{MODEL}}})", "{{model}} {{role}} used"),
           (f"sum by (model, role) (baton_state_bytes_idle{{{MODEL}}})", "{{model}} {{role}} idle"),
           (f"sum by (model, role) (baton_state_bytes_limit{{{MODEL}}})", "{{model}} {{role}} limit")]),
    graph("On disk for lack of memory", "bytes",
          [(f"sum by (model) (baton_state_spilled_bytes{{{MODEL}}})", "{{model}} bytes")]),
    graph("Sequences on disk", "short", [(f"sum by (model) (baton_sequences_spilled{{{MODEL}}})", "{{model}}")],
          width=12),
    graph("Spills and their failures", "ops",
          [(rate("baton_state_spills_total"), "{{model}} spills"),
           (rate("baton_state_spill_failures_total"), "{{model}} failures")], width=12),

    row("Conversations"),
    graph("Kept", "short", [(f"sum by (model, place) (baton_sessions{{{MODEL}}})", "{{model}} {{place}}")],
          "Files are counted once for each worker that shares their directory."),
    graph("Their bytes", "bytes", [(f"sum by (model, place) (baton_session_bytes{{{MODEL}}})", "{{model}} {{place}}")]),
    graph("Events", "ops", [(rate("baton_session_events_total", by="event"), "{{event}}")], stacked=True),

    row("Copies of running states"),
    graph("Sent", "ops", [(rate("baton_checkpoints_sent_total", by="result"), "{{result}}")],
          "With --checkpoint-tokens. skipped: no memory to make one."),
    graph("Kept for others", "bytes", [(f"sum by (instance) (baton_checkpoint_bytes{{{MODEL}}})", "{{instance}}")]),
    graph("What lost streams went on from", "ops", [(rate("baton_resumed_from_total", by="source"), "{{source}}")],
          stacked=True),
]

DASHBOARDS = {
    "baton-overview.json": dashboard("baton-overview", "Baton: overview",
                                     "What clients see: requests, errors, latency, load.", OVERVIEW),
    "baton-workers.json": dashboard("baton-workers", "Baton: workers",
                                    "Prefill, handoff, decode, caches and memory.", WORKERS),
}


def text(name):
    return json.dumps(DASHBOARDS[name], indent=1) + "\n"


if __name__ == "__main__":
    directory = pathlib.Path(__file__).resolve().parent / "dashboards"
    for name in DASHBOARDS:
        (directory / name).write_text(text(name))
