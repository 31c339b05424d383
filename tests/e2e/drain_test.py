"""SIGTERM under load: NOT_SERVING at once, nothing new, what runs finishes, exit 0."""
import grpc
import pytest

from messages import Answer, chat, failure_of_stream, greedy, long_request, next_delta
from process import wait_until

SLOW = ["--inject-step-delay-ms", "20"]
TOKENS = 100


def health_or_gone(process):
    try:
        return process.health()
    except grpc.RpcError:
        return "GONE"


@pytest.mark.parametrize("role", ["gateway", "prefill", "decode"])
def test_running_requests_finish(launch_for_test, role):
    options = dict(prefill_flags=["--chunk-tokens", "8", *SLOW]) if role == "prefill" else dict(decode_flags=SLOW)
    fleet = launch_for_test(**options)
    process = {"gateway": fleet.gateway, "prefill": fleet.prefills[0], "decode": fleet.decodes[0]}[role]
    streams = [fleet.stream(long_request(200, TOKENS)) for _ in range(4)]
    if role == "prefill":
        wait_until(lambda: process.value("baton_requests_running") + process.value("baton_requests_waiting") == 4,
                   "all are at the prefill worker")
    else:
        for stream in streams:
            next_delta(stream)
    assert process.health() == "SERVING"
    process.terminate()
    wait_until(lambda: health_or_gone(process) == "NOT_SERVING", "health says NOT_SERVING")
    service = "baton.v1.Inference" if role == "gateway" else f"baton.worker.v1.{role.capitalize()}"
    assert process.health(service) == "NOT_SERVING"
    if role != "gateway":
        # The workers' news may take a moment to arrive at the gateway.
        wait_until(lambda: fleet.serving(role) == 0, "the gateway knows")
    failure = failure_of_stream(fleet.stream(chat("Hello")))
    assert failure.code == grpc.StatusCode.UNAVAILABLE
    assert failure.reason == ("DRAINING" if role == "gateway" else "NO_WORKERS")
    missing = 0 if role == "prefill" else 1
    for stream in streams:
        assert sum(len(event.delta.token_ids) for event in stream) == TOKENS - missing
    assert process.wait_exit() == 0
    fleet.wait_idle()


def test_the_grace_period_ends(launch_for_test):
    fleet = launch_for_test(decode_flags=[*SLOW, "--grace", "0.5"])
    stream = fleet.stream(long_request(20, 1000))
    next_delta(stream)
    fleet.decodes[0].terminate()
    assert failure_of_stream(stream).code == grpc.StatusCode.UNAVAILABLE
    assert fleet.decodes[0].wait_exit() == 0
    fleet.wait_idle()


def test_idle_processes_exit_at_once(launch_for_test):
    fleet = launch_for_test()
    for process in fleet.processes():
        process.terminate()
    for process in fleet.processes():
        assert process.wait_exit() == 0


def test_requests_go_elsewhere(launch_for_test):
    fleet = launch_for_test(prefill=2, decode=2)
    fleet.prefills[0].terminate()
    fleet.decodes[0].terminate()
    for _ in range(20):
        answer = Answer(fleet.stream(chat("What is the capital of France?", sampling=greedy())))
        assert answer.text == "The capital of France is Paris."
    assert fleet.prefills[0].wait_exit() == 0
    assert fleet.decodes[0].wait_exit() == 0
