"""deploy/up and deploy/down, on the programs that were built for the tests and with a state directory of their own."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request

import pytest

from certificates import Authority
from fleet import GEMMA, MODELS, RECURRENT, ROOT
from process import BIN_DIR, parse_metrics

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
SMALL = ["--threads", "1", "--memory", "64MiB", "--no-install", "--no-build"]


class Deployment:
    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.environment = {**os.environ, "BATON_BUILD_DIR": str(BIN_DIR.parent), "BATON_RUN_DIR": str(run_dir)}
        self.foreground = []

    def run(self, script, *arguments):
        return subprocess.run([ROOT / "deploy" / script, *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, env=self.environment, timeout=200)

    def up(self, *arguments):
        return self.run("up", "--detach", "--port", 0, *SMALL, *arguments)

    def start(self, *arguments):
        """In the foreground, until it says that it stays."""
        # pytest may run with SIGINT ignored, which children would inherit.
        process = subprocess.Popen([ROOT / "deploy" / "up", "--port", "0", *SMALL, *map(str, arguments)],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env=self.environment, start_new_session=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.foreground.append(process)
        said = self.read_until(process, "Ctrl-C stops everything.")
        return process, said

    @staticmethod
    def read_until(process, text):
        said = ""
        for line in process.stdout:
            said += line
            if text in line:
                return said
        raise AssertionError(f"ended without {text!r}:\n{said}")

    def close(self):
        for process in self.foreground:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)
        self.run("down", "--now")

    def processes(self):
        lines = (self.run_dir / "processes").read_text().split("\n")[:-1]
        return {name: int(pid) for pid, _, _, name in (line.split() for line in lines)}


@pytest.fixture
def deployment(tmp_path):
    deployment = Deployment(tmp_path / "run")
    yield deployment
    deployment.close()


def gateway_of(output):
    return re.search(r"^  gateway +(\S+)", output, re.MULTILINE)[1]


def baton(gateway, *arguments):
    return subprocess.run([BIN_DIR / "baton", "--gateway", gateway, *arguments], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_up_request_down_and_up_again(deployment):
    first = deployment.up()
    assert first.returncode == 0, first.stderr + first.stdout
    assert first.stderr == ""
    assert f'{GEMMA}, asked "{QUESTION}":\n  {ANSWER}\n' in first.stdout
    gateway = gateway_of(first.stdout)
    # The request to paste, as it stands there.
    command = re.search(r"^  (\S+baton.* generate .*)$", first.stdout, re.MULTILINE)[1]
    pasted = subprocess.run(["bash", "-c", f"{command} --temperature 0"], capture_output=True, text=True,
                            cwd=os.getcwd(), timeout=60)
    assert pasted.stdout == ANSWER + "\n", pasted
    urls = re.findall(r"http://\S+/metrics", first.stdout)
    assert len(urls) == 5
    for url in urls:
        with urllib.request.urlopen(url, timeout=10) as response:
            assert ("baton_build_info" in {name for name, _ in parse_metrics(response.read().decode())})
    targets = json.loads((deployment.run_dir / "prometheus-targets.json").read_text())
    assert sorted(targets[0]["targets"]) == sorted(url.split("/")[2] for url in urls)

    second = deployment.up()
    assert second.returncode == 1
    assert second.stderr == f"deploy/up: already running (gateway at {gateway}); deploy/down stops it\n"

    pids = deployment.processes()
    assert len(pids) == 5
    down = deployment.run("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert [line.split()[0] for line in down.stdout.splitlines()[1:]] == ["gateway", "prefill", "decode"]
    assert not any(alive(pid) for pid in pids.values())
    assert baton(gateway, "models").returncode == 3
    assert deployment.run("down").stdout == "Nothing is running.\n"

    again = deployment.up("--no-example")
    assert again.returncode == 0, again.stderr + again.stdout
    assert baton(gateway_of(again.stdout), "models").returncode == 0


def test_with_certificate_and_keys(deployment, tmp_path):
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("gateway")
    keys = tmp_path / "keys"
    key = subprocess.run([BIN_DIR / "baton", "key", "new", "me", "--file", keys], capture_output=True, text=True,
                         check=True, timeout=20).stdout.split()[-1]
    flags = ["--tls-cert", pair.cert, "--tls-key", pair.key, "--api-keys", keys, "--host", "0.0.0.0", "--model",
             MODELS / GEMMA]
    blind = deployment.up(*flags)
    assert blind.returncode == 0, blind.stderr + blind.stdout
    assert "needs BATON_TLS_CA BATON_API_KEY in the environment" in blind.stdout
    assert deployment.run("down").returncode == 0

    deployment.environment.update(BATON_TLS_CA=str(authority.cert), BATON_API_KEY=key)
    seeing = deployment.up(*flags)
    assert seeing.returncode == 0, seeing.stderr + seeing.stdout
    assert f'{GEMMA}, asked "{QUESTION}":\n  {ANSWER}\n' in seeing.stdout
    gateway = gateway_of(seeing.stdout).replace("0.0.0.0", "127.0.0.1")
    assert baton(gateway, "--tls-ca", authority.cert, "--api-key", key, "models").returncode == 0
    assert baton(gateway, "--tls-ca", authority.cert, "models").returncode != 0


def test_foreground_until_ctrl_c(deployment):
    port = free_port()
    process, said = deployment.start("--port", port, "--model", MODELS / GEMMA, "--prefill", 2, "--decode", 2)
    assert gateway_of(said) == f"127.0.0.1:{port}"
    status = json.loads(baton(f"127.0.0.1:{port}", "--json", "status").stdout)
    assert sorted(worker["role"] for worker in status["workers"]) == ["decode", "decode", "prefill", "prefill"]
    pids = deployment.processes()
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert [line.split()[0] for line in rest.splitlines()] == ["Stopping:", "gateway", "prefill", "decode", "Baton"]
    assert not any(alive(pid) for pid in pids.values())


def test_a_worker_that_dies_is_reported(deployment):
    process, _ = deployment.start("--model", MODELS / GEMMA, "--decode", 2, "--no-example")
    pids = deployment.processes()
    os.kill(pids[f"{GEMMA}-decode-1"], signal.SIGKILL)
    said = deployment.read_until(process, "The others go on")
    assert f"{GEMMA}-decode-1 was killed by signal 9" in said
    assert alive(pids["gateway"])
    os.kill(pids["gateway"], signal.SIGKILL)
    said = deployment.read_until(process, "the gateway is gone, so everything was stopped")
    assert process.wait(60) == 1
    assert not any(alive(pid) for pid in pids.values())


def test_down_from_elsewhere(deployment):
    process, _ = deployment.start("--model", MODELS / RECURRENT, "--no-example")
    other = deployment.up()
    assert other.returncode == 1
    assert "running" in other.stderr and other.stderr.count("\n") == 1
    assert deployment.run("down").returncode == 0
    deployment.read_until(process, "Baton is down.")
    assert process.wait(60) == 0


def test_stops_without_its_state_directory(deployment):
    process, _ = deployment.start("--model", MODELS / GEMMA, "--no-example")
    pids = deployment.processes()
    shutil.rmtree(deployment.run_dir)
    process.send_signal(signal.SIGINT)
    assert process.stdout.read().splitlines()[-1] == "Baton is down."
    assert process.wait(60) == 0
    assert not any(alive(pid) for pid in pids.values())


def test_a_reused_pid_is_not_taken_for_ours(deployment):
    deployment.run_dir.mkdir()
    (deployment.run_dir / "processes").write_text(f"{os.getpid()} 1 gateway gateway\n")
    assert deployment.run("down").stdout == "Nothing is running.\n"


def one_line(result, code):
    assert result.returncode == code, result
    assert result.stderr.startswith("deploy/") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_taken_port(deployment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is already in use" in one_line(deployment.up("--port", port), 1)
        assert f"port {port} is already in use" in one_line(deployment.up("--metrics-port", port), 1)


def test_models_that_cannot_be_served(deployment, tmp_path):
    assert "no such directory" in one_line(deployment.up("--model", "/nowhere"), 1)
    assert "--api-keys /nowhere: there is no such file" in one_line(deployment.up("--api-keys", "/nowhere"), 1)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "config.json" in one_line(deployment.up("--model", empty), 1)
    shutil.copy(MODELS / GEMMA / "config.json", empty)
    assert "safetensors" in one_line(deployment.up("--model", empty), 1)
    assert f"two models are called {GEMMA}" in one_line(
        deployment.up("--model", MODELS / GEMMA, "--model", MODELS / GEMMA), 1)
    llama = tmp_path / "llama"
    shutil.copytree(MODELS / GEMMA, llama)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert 'architecture "llama" is not supported' in one_line(deployment.up("--model", llama), 1)


def test_a_worker_that_refuses_its_model(deployment, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(MODELS / GEMMA, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100000])
    result = deployment.up("--model", broken)
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr
    assert re.search(r"deploy/up: broken-\S+ did not start", result.stderr)
    assert deployment.run("down").stdout == "Nothing is running.\n"


@pytest.fixture
def tools(deployment, tmp_path):
    """Stands in for programs that up calls: tools(name, script) puts a bash script in front of the real one; each call
    is a line of the returned file. `real` is the path of what it hides."""
    directory = tmp_path / "tools"
    directory.mkdir()
    calls = tmp_path / "calls"
    calls.touch()
    deployment.environment["PATH"] = f"{directory}:{os.environ['PATH']}"

    def add(name, script):
        tool = directory / name
        tool.write_text(f'#!/bin/bash\necho "{name} $*" >>"{calls}"\nreal={shutil.which(name)}\n{script}\n')
        tool.chmod(0o755)
        return calls

    return add


def build_directory(deployment, tmp_path):
    """One that holds the programs, and that nobody configured."""
    directory = tmp_path / "build"
    directory.mkdir()
    (directory / "bin").symlink_to(BIN_DIR)
    deployment.environment["BATON_BUILD_DIR"] = str(directory)
    return directory


def test_builds_before_it_starts(deployment, tools, tmp_path):
    directory = build_directory(deployment, tmp_path)
    tools("cmake", f'touch "{directory}/build.ninja"')
    calls = tools("ninja", f'[ "$PWD" = "{directory}" ]')
    # Configured once, built every time.
    for expected in (["cmake", "ninja"], ["ninja"]):
        calls.write_text("")
        result = deployment.run("up", "--detach", "--port", 0, "--no-install", "--no-example", "--threads", 1, "--memory",
                                "64MiB", "--model", MODELS / GEMMA)
        assert result.returncode == 0, result.stderr
        made = calls.read_text().splitlines()
        assert [call.split()[0] for call in made] == expected
        assert made[-1] == "ninja baton baton-gateway baton-prefill baton-decode baton_python_protos"
        assert deployment.run("down").returncode == 0


def test_a_build_that_fails(deployment, tools, tmp_path):
    directory = build_directory(deployment, tmp_path)
    tools("cmake", 'echo "no compiler here"; exit 1')
    result = deployment.run("up", "--detach", "--port", 0, "--no-install")
    assert result.returncode == 1
    assert result.stderr.startswith("no compiler here\ndeploy/up: cmake failed; ")
    (directory / "build.ninja").touch()
    tools("ninja", "exit 1")
    assert "the build failed" in one_line(deployment.run("up", "--detach", "--port", 0, "--no-install"), 1)


def test_installs_only_what_is_missing(deployment, tools):
    tools("dpkg-query", 'case "$*" in *ccache*|*mold*) exit 1 ;; *) echo -n "install ok installed" ;; esac')
    tools("sudo", 'exec "$@"')
    calls = tools("apt-get", "exit 0")
    flags = ["--detach", "--port", 0, "--no-build", "--no-example", "--threads", 1, "--memory", "64MiB"]
    result = deployment.run("up", *flags, "--model", MODELS / GEMMA)
    assert result.returncode == 0, result.stderr
    assert "Installing 2 Debian packages: ccache mold\n" in result.stdout
    apt = [call for call in calls.read_text().splitlines() if call.startswith("apt-get")]
    assert len(apt) == 2 and apt[0].split()[1] == "update"
    assert apt[1].split()[1] == "install" and apt[1].endswith(" ccache mold")
    assert deployment.run("down").returncode == 0

    tools("apt-get", 'echo "E: no network" >&2; exit 100')
    result = deployment.run("up", *flags)
    assert result.returncode == 1
    assert result.stderr.startswith("E: no network\ndeploy/up: apt-get update failed")

    tools("dpkg-query", 'echo -n "install ok installed"')
    calls.write_text("")
    assert deployment.run("up", *flags, "--model", MODELS / GEMMA).returncode == 0
    assert "apt-get" not in calls.read_text()


@pytest.mark.parametrize("arguments", [
    ["--frobnicate"], ["--port"], ["--port", "x"], ["--port", "70000"], ["--prefill", "0"], ["--decode", "-1"],
    ["--compute", "int4"], ["--tls-cert", __file__], ["--weights", "int3"], ["extra"]])
def test_wrong_options(deployment, arguments):
    one_line(deployment.up(*arguments), 2)


def test_help():
    for script in ("up", "down"):
        result = subprocess.run([ROOT / "deploy" / script, "--help"], capture_output=True, text=True, timeout=20)
        assert result.returncode == 0 and "--" in result.stdout and "set -e" not in result.stdout


def test_scripts_pass_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here")
    scripts = [ROOT / "deploy" / name for name in ("up", "down", "lib.sh")]
    result = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
