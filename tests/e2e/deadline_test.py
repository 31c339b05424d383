"""Deadlines (gRPC's, the client's patience) and time limits (a request's own wish) end requests in every stage."""
import grpc
import pytest

import stages
from baton.v1 import inference_pb2 as pb
from messages import Answer, failure_of, failure_of_stream, long_request


@pytest.mark.parametrize("stage", stages.ALL, ids=lambda stage: stage.__name__.lower())
def test_deadline_in_each_stage(launch_for_test, stage):
    fleet = launch_for_test(**stage.options)
    prompt_tokens = 800 if stage is stages.Prefill else 20
    if stage is stages.Queued:
        first = stage.hold(fleet)
    stream = fleet.stream(long_request(prompt_tokens, 1000), timeout=1.5)
    failure = failure_of_stream(stream)
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED
    if stage is stages.Queued:
        first.stream.cancel()
        first.first.cancel()
    fleet.wait_idle()


def test_unary_deadline(launch_for_test):
    fleet = launch_for_test(**stages.Decode.options)
    failure = failure_of(lambda: fleet.generate(long_request(20, 1000), timeout=1))
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED
    fleet.wait_idle()


def test_time_limit_finishes_with_what_there_is(launch_for_test):
    fleet = launch_for_test(**stages.Decode.options)
    request = long_request(20, 1000)
    request.stopping.time_limit_seconds = 1
    answer = Answer(fleet.stream(request))
    assert answer.finished.reason == pb.FINISH_REASON_TIME_LIMIT
    assert 1 <= len(answer.ids) < 1000
    assert answer.finished.usage.completion_tokens == len(answer.ids)
    fleet.wait_idle()
    assert fleet.gateway.value("baton_requests_total", outcome="time_limit") == 1
