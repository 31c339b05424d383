"""kill -9 of the only worker of a role with a request in each stage: a clean UNAVAILABLE once no other has come in time;
the survivors' memory returns; a worker that comes back on the same port is used again. Where there are others, requests
go on there: failover_test.py."""
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
    fleet = launch_for_test(**stage.options, gateway_flags=["--resume-timeout", "1"])
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
