"""A client that leaves stops the work on every worker, wherever its request is, and gives all memory back."""
import grpc
import pytest

import stages
from messages import chat, failure_of_stream, greedy
from process import wait_until


# Sequences that each kind of worker counts as cancelled, by the stage in which the client left. (In the queue: those of
# the request ahead, which the test cancels too.)
CANCELLED = {stages.Queued: (0, 1), stages.Prefill: (1, 1), stages.Handoff: (1, 1), stages.Decode: (0, 1)}


def cancelled_sequences(fleet):
    return tuple(sum(worker.value("baton_sequences_finished_total", reason="cancelled") for worker in workers)
                 for workers in (fleet.prefills, fleet.decodes))


@pytest.mark.parametrize("stage", stages.ALL, ids=lambda stage: stage.__name__.lower())
def test_cancel(launch_for_test, stage):
    fleet = launch_for_test(**stage.options)
    held = stage.hold(fleet)
    held.stream.cancel()
    assert failure_of_stream(held.stream).code == grpc.StatusCode.CANCELLED
    if stage is stages.Queued:
        wait_until(lambda: fleet.gateway.value("baton_requests_waiting") == 0, "the queued request is gone")
        assert fleet.gateway.value("baton_requests_running") == 1
        held.first.cancel()
    fleet.wait_idle()
    assert cancelled_sequences(fleet) == CANCELLED[stage]
    expected = 2 if stage is stages.Queued else 1
    wait_until(lambda: fleet.gateway.value("baton_requests_total", outcome="cancelled") == expected, "outcome counted")


def test_a_connection_that_breaks_is_a_cancel(launch_for_test):
    fleet = launch_for_test(**stages.Decode.options)
    held = stages.Decode.hold(fleet)
    fleet.channel.close()
    fleet.wait_idle()
    assert cancelled_sequences(fleet) == (0, 1)
    assert held.stream.done()


def test_cancelling_one_leaves_others_alone(launch_for_test):
    fleet = launch_for_test(decode_flags=["--inject-step-delay-ms", "20"])
    question = chat("What is the capital of France?", sampling=greedy())
    streams = [fleet.stream(question) for _ in range(6)]
    for stream in streams:
        next(stream)
    for stream in streams[::2]:
        stream.cancel()
    for stream in streams[1::2]:
        assert "".join(event.delta.text for event in stream) == "The capital of France is Paris."
    fleet.wait_idle()
