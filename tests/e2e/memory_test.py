"""Decode memory is reserved before any work is done: a full fleet queues or refuses, and never crashes or starves."""
import grpc
import pytest

from messages import Answer, failure_of, failure_of_stream, long_request, next_delta
from process import wait_until

REQUEST = dict(prompt_tokens=20, new_tokens=150)


@pytest.fixture(scope="module")
def request_bytes(launch):
    """What one REQUEST reserves."""
    fleet = launch(decode_flags=["--inject-step-delay-ms", "20"])
    stream = fleet.stream(long_request(**REQUEST))
    next_delta(stream)
    used = fleet.decodes[0].value("baton_state_bytes_used")
    stream.cancel()
    fleet.wait_idle()
    assert used > 0
    return int(used)


def launch_small(launch_for_test, request_bytes, *gateway_flags):
    """Room for one request and a half."""
    return launch_for_test(decode_flags=["--inject-step-delay-ms", "10"], decode_memory=request_bytes * 3 // 2,
                           gateway_flags=gateway_flags)


def test_waits_until_there_is_room(launch_for_test, request_bytes):
    fleet = launch_small(launch_for_test, request_bytes)
    streams = [fleet.stream(long_request(**REQUEST)) for _ in range(4)]
    wait_until(lambda: fleet.gateway.value("baton_requests_waiting") == 3, "three wait")
    assert fleet.decodes[0].value("baton_state_bytes_used") == request_bytes
    answers = [Answer(stream).ids for stream in streams]
    assert all(ids == answers[0] and len(ids) == REQUEST["new_tokens"] for ids in answers)
    fleet.wait_idle()


def test_refuses_after_the_queue_timeout(launch_for_test, request_bytes):
    fleet = launch_small(launch_for_test, request_bytes, "--queue-timeout", "0.5")
    first = fleet.stream(long_request(20, 150))
    next_delta(first)
    failure = failure_of_stream(fleet.stream(long_request(**REQUEST)))
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "QUEUE_TIMEOUT"
    assert failure.retry_seconds > 0
    assert sum(len(event.delta.token_ids) for event in first) == 149
    fleet.wait_idle()


def test_refuses_when_the_queue_is_full(launch_for_test, request_bytes):
    fleet = launch_small(launch_for_test, request_bytes, "--max-queue", "1")
    streams = [fleet.stream(long_request(**REQUEST)) for _ in range(2)]
    wait_until(lambda: fleet.gateway.value("baton_requests_waiting") == 1, "one waits")
    failure = failure_of_stream(fleet.stream(long_request(**REQUEST)))
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "QUEUE_FULL"
    assert failure.retry_seconds > 0
    for stream in streams:
        stream.cancel()
    fleet.wait_idle()


def test_grows_and_waits_on_disk(launch_for_test, request_bytes, tmp_path):
    """With --reserve-output, more requests run than could come to their ends together; none notices."""
    fleet = launch_for_test(decode_flags=["--inject-step-delay-ms", "2", "--reserve-output", "16",
                                          "--spill-dir", str(tmp_path)],
                            decode_memory=request_bytes * 2)
    alone = fleet.generate(long_request(**REQUEST)).token_ids
    streams = [fleet.stream(long_request(**REQUEST)) for _ in range(4)]
    assert all(Answer(stream).ids == list(alone) for stream in streams)
    assert fleet.decodes[0].value("baton_state_spills_total") > 0
    assert fleet.decodes[0].value("baton_state_spill_failures_total") == 0
    fleet.wait_idle()
    assert fleet.decodes[0].value("baton_sequences_spilled") == 0
    assert not [path for path in tmp_path.iterdir() if "spill" in path.name]


def test_what_never_fits_is_refused_at_once(launch_for_test, request_bytes):
    fleet = launch_small(launch_for_test, request_bytes)
    failure = failure_of(lambda: fleet.generate(long_request(20, 900)))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "PROMPT_TOO_LONG"
    assert "stopping.max_new_tokens" in failure.violations
    fleet.wait_idle()


def test_oversized_prompt(launch_for_test):
    fleet = launch_for_test(prefill_flags=["--max-tokens", "64"], decode_flags=["--max-tokens", "64"])
    failure = failure_of(lambda: fleet.generate(long_request(64, 1)))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "PROMPT_TOO_LONG"
    assert "tokens.ids" in failure.violations
    assert "63" in failure.message
    # What fits is cut to what the context leaves.
    answer = fleet.generate(long_request(60, 100))
    assert len(answer.token_ids) == 4


def test_more_than_the_gateway_takes(launch_for_test):
    fleet = launch_for_test(gateway_flags=["--max-message-bytes", "64KiB"])
    failure = failure_of(lambda: fleet.generate(long_request(200000, 1)))
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    fleet.wait_idle()
