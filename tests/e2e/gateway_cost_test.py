"""bench_gateway in its shortest form: what its workers, clients and relay do has to go on working, and every stream
through the gateway has to come out whole. No figure is looked at."""
import json
import subprocess

import pytest

from fleet import GEMMA, MODELS
from process import BIN_DIR

PROGRAM = BIN_DIR / "bench_gateway"


def run(*flags):
    return subprocess.run([str(PROGRAM), "--model", str(MODELS / GEMMA), *flags], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not PROGRAM.exists(), reason="built without benchmarks")
def test_it_measures_everything(tmp_path):
    file = tmp_path / "cost.json"
    done = run("--seconds", "0.2", "--pairs", "20", "--callers", "2", "--output-tokens", "4", "--streams", "1,8", "--rates", "1000",
               "--idle-streams", "60", "--connections", "2", "--json", str(file))
    without_frames = done.returncode == 1 and "libnghttp2" in done.stderr
    if without_frames:
        done = run("--measure", "latency,requests,idle", "--seconds", "0.2", "--pairs", "20", "--callers", "2",
                   "--output-tokens", "4", "--idle-streams", "60", "--connections", "2", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    cost = json.loads(file.read_text())
    assert [row["prompt"] for row in cost["latency"]] == ["prefill worker", "decode worker"]
    assert cost["requests"][0]["requests_per_second"] > 0
    # All that failed to come out whole would have failed the run.
    assert cost["idle"]["ended_well"] == 60
    for what in () if without_frames else ("streams", "floor"):
        assert [row["streams"] for row in cost[what]] == [1, 8]
        assert all(row["tokens_per_second"] > 0 for row in cost[what])


@pytest.mark.skipif(not PROGRAM.exists(), reason="built without benchmarks")
def test_it_says_what_is_wrong():
    assert run("--measure", "nothing").returncode == 2
    missing = run("--measure", "requests", "--gateway-program", "/nowhere/baton-gateway")
    assert missing.returncode == 1 and "/nowhere/baton-gateway" in missing.stderr
