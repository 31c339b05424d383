"""kill -9 of either worker with a request in each stage: a clean UNAVAILABLE, or a retry where no token was out yet; the
survivors' memory returns; a worker that comes back on the same port is used again."""
import grpc
import pytest

import stages
from messages import Answer, chat, failure_of_stream, greedy, long_request
from process import wait_until

STAGES = [stages.Prefill, stages.Handoff, stages.Decode]


def stage_id(stage):
    return stage.__name__.lower()


def assert_serves(fleet):
    answer = Answer(fleet.stream(chat("What is the capital of France?", sampling=greedy())))
    assert answer.text == "The capital of France is Paris."


def victims(fleet, role):
    return fleet.prefills if role == "prefill" else fleet.decodes


@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_kill_the_only_one(launch_for_test, stage, role):
    fleet = launch_for_test(**stage.options)
    held = stage.hold(fleet)
    victim = victims(fleet, role)[0]
    victim.kill()
    if role == "prefill" and stage is stages.Decode:
        # It has done its part.
        held.stream.cancel()
        assert failure_of_stream(held.stream).code == grpc.StatusCode.CANCELLED
    else:
        failure = failure_of_stream(held.stream)
        assert failure.code == grpc.StatusCode.UNAVAILABLE, failure
        assert failure.message
    fleet.wait_idle()
    victim.restart()
    fleet.idle_bytes[id(victim)] = victim.value("baton_state_bytes_used")
    fleet.wait_ready(1, 1)
    assert_serves_slowly(fleet)


def assert_serves_slowly(fleet):
    """A short request, which the injected delays leave possible."""
    answer = Answer(fleet.stream(long_request(4, 3)))
    assert len(answer.ids) == 3
    fleet.wait_idle()


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_retried_on_another_before_the_first_token(launch_for_test, role):
    # As slow as needed to be caught in prefill, and still done in seconds.
    fleet = launch_for_test(prefill=2, decode=2, prefill_flags=["--chunk-tokens", "8", "--inject-step-delay-ms", "50"])
    request = long_request(240, 20)
    expected = Answer(fleet.stream(request)).ids
    fleet.wait_idle()
    stream = fleet.stream(request)
    workers = victims(fleet, role)
    gauge = "baton_queued_tokens" if role == "prefill" else "baton_state_bytes_used"
    busy = wait_until(lambda: [worker for worker in workers if worker.value(gauge) > 0], f"a {role} worker has it")
    assert len(busy) == 1
    busy[0].kill()
    assert Answer(stream).ids == expected
    assert fleet.gateway.value("baton_retries_total") >= 1
    fleet.wait_idle()


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_others_take_over_and_the_restarted_one_is_used_again(launch_for_test, role):
    fleet = launch_for_test(prefill=2 if role == "prefill" else 1, decode=2 if role == "decode" else 1)
    victim, survivor = victims(fleet, role)
    boot_id = victim.ready_fields["boot"]
    victim.kill()
    for _ in range(4):
        assert_serves(fleet)
    wait_until(lambda: fleet.serving(role) == 1, "the gateway has noticed")
    address = victim.address
    victim.restart()
    assert victim.address == address
    assert victim.ready_fields["boot"] != boot_id
    wait_until(lambda: fleet.serving(role) == 2, "the gateway sees it again")
    survivor.kill()
    for _ in range(4):
        assert_serves(fleet)
    assert victim.value("baton_generation_tokens_total") > 0
    fleet.wait_idle()


def test_without_any_worker_says_so(launch_for_test):
    fleet = launch_for_test()
    fleet.decodes[0].kill()
    wait_until(lambda: fleet.serving("decode") == 0, "the gateway has noticed")
    failure = failure_of_stream(fleet.stream(chat("Hello")))
    assert failure.code == grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "NO_WORKERS"
    assert failure.retry_seconds > 0
    assert "decode" in failure.message


def test_a_gateway_that_dies_leaves_the_workers_clean(launch_for_test):
    fleet = launch_for_test(**stages.Decode.options)
    held = stages.Decode.hold(fleet)
    fleet.gateway.kill()
    assert failure_of_stream(held.stream).code == grpc.StatusCode.UNAVAILABLE
    fleet.wait_idle()
