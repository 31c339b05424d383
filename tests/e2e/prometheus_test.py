"""Prometheus itself scrapes a fleet under load: every target up, no series twice, no NaN, names as documented."""
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT, ROOT
from messages import Answer, chat, failure_of, greedy, long_request
from process import wait_until

sys.path.insert(0, str(ROOT / "tests" / "deploy"))
import monitoring  # noqa: E402

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not installed")


# This fleet has neither keys nor certificates: access_test.py and tls_test.py see these.
SECURED = re.compile("baton_(client_|unauthenticated_|api_keys|reloads_|tls_)")


class Prometheus:
    def __init__(self, directory, targets):
        # A loaded machine may take its time to answer.
        config = {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
                  "scrape_configs": [{"job_name": "baton", "static_configs": [{"targets": targets}]}]}
        (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.log_path = directory / "prometheus.log"
        with open(self.log_path, "wb") as log:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={directory}/prometheus.yml",
                 f"--storage.tsdb.path={directory}/data", "--web.listen-address=127.0.0.1:0"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        address = wait_until(self._listening, "Prometheus listens", 60)
        self.url = f"http://{address}"
        wait_until(self._ready, "Prometheus is ready", 60)

    def _listening(self):
        assert self._popen.poll() is None, self.log_path.read_text()
        found = re.search(r'msg="Listening on" address=(\S+)', self.log_path.read_text())
        return found and found[1]

    def _ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=20):
                return True
        except urllib.error.HTTPError:
            return False

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def close(self):
        self._popen.kill()
        self._popen.wait()


@pytest.fixture(scope="module")
def fleet(launch):
    fleet = launch(models=[GEMMA, RECURRENT])
    for model in (GEMMA, RECURRENT):
        Answer(fleet.stream(chat("What is the capital of France?", model, sampling=greedy())))
        stream = fleet.stream(long_request(20, 1800, model))
        next(stream)  # a call cancelled at once may never leave the client
        stream.cancel()
    for name in ("made-up", "made-up-too"):
        failure_of(lambda: fleet.generate(chat("Hi", name)))
    fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=pb.TextPrompt(text="x")))
    fleet.wait_idle()
    return fleet


@pytest.fixture(scope="module")
def prometheus(fleet, tmp_path_factory):
    server = Prometheus(tmp_path_factory.mktemp("prometheus"),
                        [process.metrics_address() for process in fleet.processes()])
    yield server
    server.close()


def test_every_target_is_up(fleet, prometheus):
    def all_scraped():
        targets = prometheus.get("targets")["activeTargets"]
        return len(targets) == 5 and all(target["health"] != "unknown" for target in targets) and targets

    for target in wait_until(all_scraped, "all targets were scraped"):
        assert target["health"] == "up", target["lastError"]


def test_values(fleet, prometheus):
    wait_until(lambda: len(prometheus.query("up == 1")) == 5, "all targets are up")
    series = prometheus.query('{__name__=~"baton_.+"}')
    assert len(series) > 100
    for sample in series:
        assert not math.isnan(float(sample["value"][1])), sample
        assert sample["metric"]["role"] in ("gateway", "prefill", "decode")
        assert sample["metric"].get("model", GEMMA) in (GEMMA, RECURRENT, "unknown")
    assert "duplicate" not in prometheus.log_path.read_text().lower()
    assert len(prometheus.query("baton_build_info == 1")) == 5
    outcomes = {sample["metric"]["outcome"]: float(sample["value"][1])
                for sample in prometheus.query("sum by (outcome) (baton_requests_total)")}
    assert outcomes["stop"] == outcomes["cancelled"] == outcomes["not_found"] == 2
    assert prometheus.query('histogram_quantile(0.95, sum by (le) (baton_time_to_first_token_seconds_bucket))')
    # Every prompt token was computed once and transferred once.
    by_source = {sample["metric"]["source"]: float(sample["value"][1])
                 for sample in prometheus.query('sum by (source) (baton_prompt_tokens_total)')}
    assert by_source["computed"] >= by_source["transferred"] >= 2 * 18
    sent = prometheus.query('sum by (role) (baton_handoff_bytes_total)')
    by_role = {sample["metric"]["role"]: float(sample["value"][1]) for sample in sent}
    assert by_role["prefill"] > 0 and by_role["decode"] > 0


def test_clients_cannot_create_series(fleet):
    def count():
        return len(fleet.gateway.metrics())

    failure_of(lambda: fleet.generate(chat("Hi", "warm-up")))
    before = count()
    for index in range(20):
        failure_of(lambda: fleet.generate(chat("Hi", f"made-up-{index}")))
    assert count() == before


def test_promtool_finds_no_fault(fleet):
    for process in fleet.processes():
        checked = subprocess.run(["promtool", "check", "metrics"], input=process.metrics_text(), text=True,
                                 capture_output=True, timeout=60)
        assert not (checked.stdout + checked.stderr).strip(), process.role


def test_names_are_the_documented_ones(fleet):
    documented = set(re.findall(r"`(baton_[a-z_]+)`", pathlib.Path(ROOT / "docs" / "metrics.md").read_text()))
    exposed = set()
    for process in fleet.processes():
        for (name, _), _ in process.metrics().items():
            if name.startswith("baton_"):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                exposed.add(base if base in documented else name)
    assert exposed <= documented
    assert {name for name in documented if not SECURED.match(name)} <= exposed


def test_dashboards_and_rules_find_what_they_ask_for(fleet, prometheus):
    """Every expression evaluates, and every metric in it has the labels that it selects and groups by."""
    wait_until(lambda: len(prometheus.query("up == 1")) == 5, "all targets are up")
    labels = {}
    for sample in prometheus.query('{__name__=~"baton_.+"}'):
        labels.setdefault(sample["metric"]["__name__"], set()).update(sample["metric"])
    for where, expression in monitoring.expressions():
        prometheus.query(expression)
        metrics = [(name, matched) for name, matched in monitoring.selectors(expression) if name != "up"]
        if any(SECURED.match(name) for name, _ in metrics):
            continue
        for name, matched in metrics:
            assert name in labels, f"{where}: nobody exposes {name}"
            assert set(matched) - {"job"} <= labels[name], f"{where}: {name}"
        if metrics and "baton:" not in expression:
            every = set().union(*(labels[name] for name, _ in metrics))
            assert monitoring.grouped_labels(expression) <= every, where
