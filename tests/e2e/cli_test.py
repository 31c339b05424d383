"""The command line client as a shell sees it: every subcommand against a real fleet."""
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from fleet import GEMMA, MODELS, RECURRENT, ROOT
from process import BIN_DIR, wait_until
from terminal import OnTerminal

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


class Shell:
    def __init__(self, fleet):
        self.fleet = fleet
        self.environment = {**os.environ, "BATON_GATEWAY": fleet.gateway.address, "TERM": "xterm"}
        self.environment.pop("NO_COLOR", None)

    def run(self, *arguments, stdin="", **options):
        return subprocess.run([BIN_DIR / "baton", *map(str, arguments)], input=stdin, capture_output=True, text=True,
                              env=self.environment, timeout=60, **options)

    def out(self, *arguments, stdin=""):
        result = self.run(*arguments, stdin=stdin)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    def json(self, *arguments, stdin=""):
        return json.loads(self.out(*arguments, "--json", stdin=stdin))

    def start(self, *arguments):
        # pytest may run with SIGINT ignored, which children would inherit.
        return subprocess.Popen([BIN_DIR / "baton", *map(str, arguments)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.fixture(scope="module")
def shell(launch):
    # Steps slow enough that an answer can be interrupted.
    return Shell(launch(models=[GEMMA, RECURRENT], decode_flags=["--inject-step-delay-ms", "5"]))


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_generate(shell, model):
    assert shell.out("generate", "-m", model, "--temperature", 0, QUESTION) == ANSWER + "\n"
    assert shell.out("generate", "-m", model, "--temperature", 0, stdin=QUESTION + "\n") == ANSWER + "\n"
    assert shell.out("generate", "-m", model, "-t0", "--no-stream", QUESTION) == ANSWER + "\n"


def test_generate_for_machines(shell):
    answer = shell.json("generate", "-m", GEMMA, "--temperature", 0, "--logprobs", "--top-logprobs", 2,
                        "--prompt-logprobs", QUESTION)
    assert answer["text"] == ANSWER
    assert answer["model"] == GEMMA
    assert answer["finish_reason"] == "stop" and answer["match"] == {"eos_token_id": 5}
    assert answer["usage"] == {"prompt_tokens": 18, "completion_tokens": 12, "total_tokens": 30,
                               "cached_prompt_tokens": 0}
    # The stop token is counted and not shown.
    assert len(answer["logprobs"]) == len(answer["token_ids"]) == 11
    assert len(answer["prompt_logprobs"]) == 17
    assert all(token["top"][0]["id"] == token["id"] for token in answer["logprobs"])

    lines = shell.out("generate", "-m", GEMMA, "--temperature", 0, "--json", "--stream", QUESTION).splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events[:1] + events[-1:]] == ["started", "finished"]
    assert "".join(event["text"] for event in events if event["event"] == "delta") == ANSWER
    assert sum((event["token_ids"] for event in events if event["event"] == "delta"), []) == answer["token_ids"]


def test_generate_prompts(shell, tmp_path):
    ids = shell.json("tokenize", "-m", GEMMA, "--chat", QUESTION)["ids"]
    assert shell.out("generate", "-m", GEMMA, "-t0", "--tokens", ",".join(map(str, ids))) == ANSWER + "\n"
    messages = tmp_path / "messages.json"
    messages.write_text(json.dumps([{"role": "user", "content": QUESTION}]))
    assert shell.out("generate", "-m", GEMMA, "-t0", "--messages", messages) == ANSWER + "\n"
    prompt = f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n"
    raw = ["generate", "-m", GEMMA, "-t0", "--max-new-tokens=20", "--raw", prompt]
    assert shell.out(*raw, "--parse-special") == ANSWER + "\n"
    assert shell.out(*raw) != ANSWER + "\n"


def test_seed_gives_the_same_answer(shell):
    first = shell.json("generate", "-m", GEMMA, "-t", 2, "--max-new-tokens", 20, "Tell me anything.")
    again = ["generate", "-m", GEMMA, "-t", 2, "--max-new-tokens", 20, "Tell me anything.", "--seed"]
    assert shell.json(*again, first["seed"])["token_ids"] == first["token_ids"]


def test_stops_and_limits(shell):
    count = ["generate", "-m", GEMMA, "-t0", "Count from 3 to 12."]
    assert shell.out(*count, "--stop", ", 6") == "3, 4, 5\n"
    assert shell.out(*count, "--stop", ", 6", "--include-stop") == "3, 4, 5, 6\n"
    limited = shell.json(*count, "--max-new-tokens", 1)
    assert (limited["text"], limited["finish_reason"]) == ("3", "length")
    endless = shell.json("generate", "-m", GEMMA, "-t0", "--ignore-eos", "--max-new-tokens", 2000, "--time-limit", 0.3, QUESTION)
    assert endless["finish_reason"] == "time_limit"


def test_a_person_gets_a_model_and_figures(shell):
    terminal = OnTerminal(shell.environment, "generate", "-t0", QUESTION)
    assert terminal.exit_code() == 0
    assert f"using {GEMMA}; --model chooses another: {RECURRENT}" in terminal.screen
    assert ANSWER + "\r\n" in terminal.screen
    assert "18 prompt + 12 output tokens" in terminal.screen


def test_a_script_must_name_its_model(shell):
    result = shell.run("generate", QUESTION)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("baton: model: ") and result.stderr.count("\n") == 1
    assert GEMMA in result.stderr and RECURRENT in result.stderr and "--model" in result.stderr


def test_chat(shell):
    terminal = OnTerminal(shell.environment, "chat", "-m", RECURRENT, "-t0", "--max-new-tokens", "2000")
    terminal.wait_for("> ")
    terminal.type(QUESTION + "\n")
    terminal.wait_for(ANSWER)
    terminal.wait_for("> ")
    terminal.type("Count from 1 to 90.\n")
    terminal.wait_for("1, 2, 3")
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    shell.fleet.wait_idle()
    terminal.type("/reset\n")
    terminal.wait_for("(forgotten)")
    terminal.wait_for("> ")
    terminal.type("What is the capital\\\n")
    terminal.wait_for("| ")
    terminal.type("of France?\n")
    terminal.wait_for("Paris")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_chat_from_a_script(shell):
    assert shell.out("chat", "-m", GEMMA, "-t0", stdin=f"{QUESTION}\n/reset\n{QUESTION}\n") == 2 * (ANSWER + "\n")


def test_ctrl_c_stops_the_work(shell):
    terminal = OnTerminal(shell.environment, "generate", "-m", GEMMA, "-t0", "--ignore-eos", "--max-new-tokens", "4000", "--raw", "In the")
    terminal.wait_for("\n")
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    shell.fleet.wait_idle()


def test_a_reader_that_has_enough(shell):
    endless = f"'{BIN_DIR}/baton' generate -m {GEMMA} -t0 --ignore-eos --max-new-tokens 4000 --raw 'In the'"
    result = subprocess.run(["bash", "-c", f"{endless} | head -c 5; code=${{PIPESTATUS[0]}}; echo; echo $code"],
                            capture_output=True, text=True, env=shell.environment, timeout=60)
    assert result.stdout.splitlines()[-1] == "141"
    assert result.stderr == ""
    shell.fleet.wait_idle()


def test_score(shell, tmp_path):
    context = "The capital of France is"
    scores = shell.json("score", "-m", GEMMA, "--chat", QUESTION, "-c", ANSWER, "-c", "The capital of France is Rome.")
    assert scores["scores"][0]["logprob"] > scores["scores"][1]["logprob"]
    assert scores["scores"][0]["is_greedy"] and not scores["scores"][1]["is_greedy"]
    table = shell.out("score", "-m", GEMMA, context, "-c", " Paris", "-c", " Rome").splitlines()
    assert table[0].split() == ["LOGPROB", "PER", "TOKEN", "TOKENS", "GREEDY", "CONTINUATION"]
    assert table[1].endswith('" Paris"') and table[2].endswith('" Rome"')

    lines = [{"context": context, "continuation": continuation} for continuation in (" Paris", " Rome", [" A", " B"])]
    path = tmp_path / "score.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines * 10))
    results = [json.loads(line) for line in shell.out("score", "-m", GEMMA, "--jsonl", path).splitlines()]
    single = shell.json("score", "-m", GEMMA, context, "-c", " Paris")["scores"][0]
    assert len(results) == 30
    assert results[0] == results[3] == single
    assert [len(result["scores"]) for result in results[2::3]] == [2] * 10


def test_tokenize_online_is_offline(shell):
    texts = ["", "Hello, world", "\n\n  12345\t", "<start_of_turn>user", "€ und ✓ \U0001f600", "a" * 500]
    stdin = "".join(json.dumps(text) + "\n" for text in texts)
    online = shell.out("tokenize", "-m", GEMMA, "--jsonl", stdin=stdin)
    assert online == shell.out("tokenize", "--model-dir", MODELS / GEMMA, "--jsonl", stdin=stdin)
    for flags in (["--parse-special"], ["--no-bos"], ["--chat"]):
        one = ["tokenize", "Hi <end_of_turn>", *flags, "--json"]
        assert shell.out(*one, "-m", GEMMA) == shell.out(*one, "--model-dir", MODELS / GEMMA)
    for source in (["-m", GEMMA], ["--model-dir", MODELS / GEMMA]):
        back = shell.out("detokenize", "--jsonl", *source, stdin=online)
        assert [json.loads(line) for line in back.splitlines()] == texts


def test_models_and_status(shell):
    cards = shell.json("models")["models"]
    assert [(card["name"], card["ready"]) for card in cards] == [(GEMMA, True), (RECURRENT, True)]
    assert shell.out("models").splitlines()[1].split()[:3] == [GEMMA, "ready", "gemma2"]
    status = shell.json("status")
    assert sorted((worker["model"], worker["role"], worker["state"]) for worker in status["workers"]) == [
        (model, role, "SERVING") for model in (GEMMA, RECURRENT) for role in ("decode", "prefill")]
    assert all(worker["state_bytes_total"] == 64 << 20 for worker in status["workers"])
    assert shell.fleet.decodes[0].address in shell.out("status")

    terminal = OnTerminal(shell.environment, "status")
    for _ in range(2):
        terminal.wait_for("v0.1.0")
        # A narrow screen cuts names.
        terminal.wait_for(RECURRENT[:12])
    terminal.type("\x03")
    assert terminal.exit_code() == 0


def test_version(shell):
    assert shell.out("version") == f"baton 0.1.0\ngateway 0.1.0 at {shell.fleet.gateway.address}\n"


def test_synth(shell, tmp_path):
    out = tmp_path / "checkpoint"
    config = MODELS / RECURRENT / "config.json"
    summary = shell.json("synth", "--config", config, "--out", out, "--seed", 3,
                         "--tokenizer", MODELS / RECURRENT / "tokenizer.model")
    assert summary["parameters"] == 4151552
    assert shell.out("tokenize", "--model-dir", out, "--no-bos", "Hi") == \
        shell.out("tokenize", "--model-dir", MODELS / RECURRENT, "--no-bos", "Hi")
    assert shell.run("synth", "--config", config, "--out", out).returncode == 1


def test_failures_and_their_exit_codes(shell):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        result = shell.run("--gateway", nobody, "models")
        assert result.returncode == 3
        assert result.stderr == f"baton: cannot reach a gateway at {nobody}; start one with ./deploy/up or pass --gateway\n"
    result = shell.run("--gateway", shell.fleet.decodes[0].address, "models")
    assert result.returncode == 1 and "not a worker's" in result.stderr
    result = shell.run("--gateway", shell.fleet.gateway.metrics_address(), "--timeout", 2, "models")
    assert result.returncode == 3
    result = shell.run("generate", "-m", "nobody", QUESTION)
    assert result.returncode == 1 and '"nobody"' in result.stderr and GEMMA in result.stderr
    result = shell.run("generate", "-m", GEMMA, "--top-p", 3, "--temperature", -1, QUESTION)
    assert result.returncode == 2
    assert "sampling.top_p" in result.stderr and "sampling.temperature" in result.stderr
    result = shell.run("generate", "-m", GEMMA, "-t0", "--ignore-eos", "--max-new-tokens", 4000, "--timeout", 0.3, QUESTION)
    assert result.returncode == 5
    result = shell.run("generate", "-m", GEMMA, "--raw", "--json", stdin="long " * 20000)
    assert result.returncode == 2
    assert json.loads(result.stderr)["error"]["reason"] == "PROMPT_TOO_LONG"
    shell.fleet.wait_idle()


def test_overload(launch):
    shell = Shell(launch(decode_flags=["--inject-step-delay-ms", "5"],
                         gateway_flags=["--max-running", "1", "--max-queue", "0"]))
    busy = shell.start("generate", "-t0", "--ignore-eos", "--max-new-tokens", 4000, "--raw", "In the")
    wait_until(lambda: shell.fleet.gateway.value("baton_requests_running") == 1, "a request runs")
    result = shell.run("generate", QUESTION)
    assert result.returncode == 4
    assert "try again" in result.stderr and result.stderr.count("\n") == 1
    busy.send_signal(signal.SIGINT)
    assert busy.wait(30) == 130
    busy.communicate()
    shell.fleet.wait_idle()


def test_the_gateway_dies_in_the_middle(launch_for_test):
    shell = Shell(launch_for_test(decode_flags=["--inject-step-delay-ms", "5"]))
    asking = shell.start("generate", "-t0", "--ignore-eos", "--max-new-tokens", 4000, "--raw", "In the")
    wait_until(lambda: shell.fleet.gateway.value("baton_streamed_tokens_total") > 0, "the first token is out")
    shell.fleet.gateway.kill()
    assert asking.wait(60) == 3
    _, errors = asking.communicate()
    assert "was lost" in errors and errors.count("\n") == 1


def test_the_example_in_python(shell):
    example = ROOT / "deploy" / "examples" / "generate.py"
    command = [sys.executable, example, QUESTION, "--gateway", shell.fleet.gateway.address, "--temperature", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ANSWER + "\n(18 prompt + 12 output tokens)\n"
    result = subprocess.run([*command, "--model", "nobody"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and result.stderr.startswith("NOT_FOUND: ")


def test_the_python_of_the_readme(shell):
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "127.0.0.1:7000" in code
    code = code.replace("127.0.0.1:7000", shell.fleet.gateway.address)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, ANSWER), result
