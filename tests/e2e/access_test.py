"""API keys at a gateway: nobody gets in without one, each has its limits, and they change while requests run."""
import hashlib
import json
import subprocess
import threading

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA
from messages import chat, exactly, failure_of, failure_of_stream, greedy, long_request, next_delta
from process import BIN_DIR, wait_until

SECRET_PROMPT = "xylophone-zeppelin-quagmire"


class KeyFile:
    """The gateway's --api-keys file, replaced whole at each change."""

    def __init__(self, path):
        self.path = path
        self.lines = {}
        self._made = 0

    def add(self, name, limits=""):
        self._made += 1
        key = f"key-of-{name}-{self._made}"
        self.lines[key] = f"{name} {hashlib.sha256(key.encode()).hexdigest()} {limits}"
        self.write("\n".join(self.lines.values()) + "\n")
        return key

    def remove(self, key):
        del self.lines[key]
        self.write("\n".join(self.lines.values()) + "\n")

    def write(self, text):
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.rename(self.path)


def bearer(key):
    return [("authorization", f"Bearer {key}")]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys")
    file.ops = file.add("ops", "operator=yes")
    file.alice = file.add("alice")
    file.elsewhere = file.add("elsewhere", "models=another-model")
    file.meek = file.add("meek", "max_priority=0")
    file.single = file.add("single", "concurrent=1")
    file.slow = file.add("slow", "requests_per_minute=2")
    file.frugal = file.add("frugal", "tokens_per_minute=20")
    file.old = file.add("old", "expires=2001-01-01")
    return file


@pytest.fixture(scope="module")
def fleet(launch, keys):
    return launch(gateway_flags=["--api-keys", str(keys.path)], decode_flags=["--inject-step-delay-ms", "5"])


def all_calls(fleet, metadata):
    """Every RPC of the public API."""
    prompt = chat(SECRET_PROMPT, stopping=exactly(1), request_id="of-all-calls")
    text = pb.TextPrompt(text=SECRET_PROMPT)
    inference = fleet.inference
    return {
        "Generate": lambda: inference.Generate(prompt, metadata=metadata, timeout=60),
        "GenerateStream": lambda: list(inference.GenerateStream(prompt, metadata=metadata, timeout=60)),
        "Score": lambda: inference.Score(
            pb.ScoreRequest(model=GEMMA, text=text, continuations=[pb.Continuation(text="a")]), metadata=metadata,
            timeout=60),
        "Tokenize": lambda: inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=text), metadata=metadata,
                                               timeout=60),
        "Detokenize": lambda: inference.Detokenize(pb.DetokenizeRequest(model=GEMMA, ids=[100]), metadata=metadata,
                                                   timeout=60),
        "ListModels": lambda: inference.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=60),
        "GetStatus": lambda: fleet.fleet.GetStatus(pb.GetStatusRequest(), metadata=metadata, timeout=60),
        # Of the calls before it.
        "GetTrace": lambda: fleet.fleet.GetTrace(pb.GetTraceRequest(request_id=prompt.request_id), metadata=metadata,
                                                 timeout=60),
    }


class _Nothing:
    inference = fleet = None


def test_the_list_of_calls_is_complete():
    services = pb.DESCRIPTOR.services_by_name
    assert set(all_calls(_Nothing(), ())) == {
        method.name for service in services.values() for method in service.methods}


@pytest.mark.parametrize("metadata, reason", [
    ((), "API_KEY_MISSING"),
    ((("authorization", "Bearer wrong"),), "API_KEY_INVALID"),
    ((("authorization", "Basic wrong"),), "API_KEY_INVALID"),
    ((("x-api-key", "wrong"),), "API_KEY_INVALID"),
    ((("x-api-key", "x" * 4000),), "API_KEY_INVALID"),
])
def test_nobody_gets_in_without_a_key(fleet, metadata, reason):
    for name, call in all_calls(fleet, metadata).items():
        failure = failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason), name
    fleet.wait_idle()


def test_health_needs_no_key(fleet):
    assert fleet.gateway.health() == "SERVING"


def test_a_key_opens_all_but_the_fleet(fleet, keys):
    for name, call in all_calls(fleet, bearer(keys.alice)).items():
        if name == "GetStatus":
            failure = failure_of(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPERATORS_ONLY")
        else:
            call()
    for call in all_calls(fleet, [("x-api-key", keys.ops)]).values():
        call()


def test_expired(fleet, keys):
    failure = failure_of(lambda: fleet.inference.Generate(chat("Hi"), metadata=bearer(keys.old)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_EXPIRED")


def test_models_that_a_key_may_not_use_are_not_there(fleet, keys):
    metadata = bearer(keys.elsewhere)
    failure = failure_of(lambda: fleet.inference.Generate(chat("Hi"), metadata=metadata))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED")
    assert not fleet.inference.ListModels(pb.ListModelsRequest(), metadata=metadata).models
    failure = failure_of(lambda: fleet.inference.Generate(chat("Hi", model=""), metadata=metadata))
    assert GEMMA not in failure.message


def test_priority(fleet, keys):
    fleet.inference.Generate(chat("Hi", stopping=exactly(1)), metadata=bearer(keys.meek))
    failure = failure_of(lambda: fleet.inference.Generate(chat("Hi", priority=1), metadata=bearer(keys.meek)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PRIORITY_NOT_ALLOWED")


def test_limits(fleet, keys):
    def refused(key):
        failure = failure_of(lambda: fleet.inference.Generate(chat("Hi", stopping=exactly(1)), metadata=bearer(key)))
        assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_seconds > 0
        return failure.reason

    stream = fleet.inference.GenerateStream(long_request(8, 2000), metadata=bearer(keys.single))
    next_delta(stream)
    assert refused(keys.single) == "CLIENT_CONCURRENCY"
    stream.cancel()
    # One after the other is one at a time.
    wait_until(lambda: fleet.busy() == [], "the cancelled request is gone")
    for _ in range(5):
        fleet.inference.Generate(chat("Hi", stopping=exactly(1)), metadata=bearer(keys.single))

    for _ in range(2):
        fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=pb.TextPrompt(text="a")),
                                 metadata=bearer(keys.slow))
    assert refused(keys.slow) == "CLIENT_REQUEST_RATE"

    fleet.inference.Generate(long_request(30, 10), metadata=bearer(keys.frugal))
    assert refused(keys.frugal) == "CLIENT_TOKEN_RATE"


def test_conversations_are_their_clients(fleet, keys):
    second = keys.add("alice")
    request = chat("Hello", keep_state=True, sampling=greedy(), stopping=exactly(4))
    first = fleet.inference.Generate(request, metadata=bearer(keys.alice))
    again = chat("And?", session=first.finished.session.handle, stopping=exactly(2))
    failure = failure_of(lambda: fleet.inference.Generate(again, metadata=bearer(keys.ops)))
    assert failure.reason == "SESSION_EXPIRED"
    # Also with another key of the same client.
    call = lambda: fleet.inference.Generate(again, metadata=bearer(second))
    wait_until(lambda: not_refused(call), "the second key is known")
    assert call().finished.usage.cached_prompt_tokens > 0


def not_refused(call):
    try:
        call()
        return True
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
        return False


def test_a_broken_file_keeps_the_old_keys(fleet, keys):
    good = keys.path.read_text()
    failed = lambda: fleet.gateway.value("baton_reloads_total", what="api_keys", result="failed")
    before = failed()
    keys.write("alice nonsense\n")
    wait_until(lambda: failed() > before, "the gateway has looked at it")
    fleet.inference.Generate(chat("Hi", stopping=exactly(1)), metadata=bearer(keys.alice))
    assert "api_keys_not_reloaded" in fleet.gateway.log_path.read_text()
    keys.write(good)


def test_keys_change_under_load_without_an_error(fleet, keys):
    """Each client has two keys for a moment, moves to the new one, and loses the old one."""
    errors, answers = [], []
    stop = threading.Event()
    current = {"key": keys.add("rotating")}
    probe = lambda key: (lambda: fleet.inference.ListModels(pb.ListModelsRequest(), metadata=bearer(key)))
    wait_until(lambda: not_refused(probe(current["key"])), "the first key is known")

    def client():
        while not stop.is_set():
            try:
                answer = fleet.inference.Generate(long_request(8, 12), metadata=bearer(current["key"]), timeout=60)
                answers.append(tuple(answer.token_ids))
            except grpc.RpcError as error:
                errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(3):
            old, done = current["key"], len(answers)
            new = keys.add("rotating")
            wait_until(lambda: not_refused(probe(new)), "the new key is known")
            current["key"] = new
            wait_until(lambda: len(answers) >= done + 12, "the clients use it")
            keys.remove(old)
            wait_until(lambda: not not_refused(probe(old)), "the old key is gone")
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not errors and len(set(answers)) == 1


def test_clients_are_counted_and_logged_by_name(fleet, keys):
    fleet.inference.Generate(chat(SECRET_PROMPT, stopping=exactly(3)), metadata=bearer(keys.alice))
    assert fleet.gateway.value("baton_client_requests_total", client="alice", outcome="length") >= 1
    assert fleet.gateway.value("baton_client_tokens_total", client="alice", kind="output") >= 3
    assert fleet.gateway.value("baton_unauthenticated_calls_total", reason="invalid") >= 1
    log = fleet.gateway.log_path.read_text()
    assert "client=alice" in log and "unauthenticated" in log


def test_no_prompt_and_no_key_in_logs_or_metrics(fleet, keys):
    """After all the tests above, which have sent both."""
    stream = fleet.inference.GenerateStream(chat(SECRET_PROMPT, request_id="bad\nid"), metadata=bearer(keys.alice))
    failure_of_stream(stream)
    for process in fleet.processes():
        for text in (process.log_path.read_text(errors="replace"), process.metrics_text()):
            assert SECRET_PROMPT not in text and "quagmire" not in text
            for key in keys.lines:
                assert key not in text


def test_flags(tmp_path):
    """One line that says what is wrong."""
    file = tmp_path / "keys"
    for text, message in ((None, "cannot read"), ("", "no key in it"), ("alice\n", "line 1")):
        if text is not None:
            file.write_text(text)
        result = subprocess.run([BIN_DIR / "baton-gateway", "--listen", "127.0.0.1:0", "--prefill-worker", "127.0.0.1:1",
                                 "--decode-worker", "127.0.0.1:1", "--api-keys", file], capture_output=True, text=True,
                                timeout=60)
        assert result.returncode == 1 and result.stderr.count("\n") == 1
        assert str(file) in result.stderr and message in result.stderr


def test_the_client_program(fleet, keys, tmp_path):
    def baton(*arguments):
        return subprocess.run([BIN_DIR / "baton", "--gateway", fleet.gateway.address, *arguments], capture_output=True,
                              text=True, timeout=60)

    refused = baton("models")
    assert refused.returncode == 1 and "--api-key-file" in refused.stderr
    file = tmp_path / "key"
    made = json.loads(baton("key", "new", "carol", "operator=yes", "--json").stdout)
    file.write_text(made["key"] + "\n")
    keys.lines[made["key"]] = made["line"]
    keys.add("dave")
    wait_until(lambda: baton("models", "--api-key-file", file).returncode == 0, "carol's key is known")
    assert GEMMA in baton("status", "--api-key-file", file).stdout
