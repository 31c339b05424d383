"""Hundreds of streams at once are each as right as one alone, and no reader holds back another."""
import json
import threading

import grpc

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT, TRAINED
from messages import Answer, chat, failure_of_stream, greedy, long_request, tokens
from process import wait_until

STREAMS = 200
PROMPTS = json.loads((TRAINED / "prompts.json").read_text())["prompts"]


def numbered_request(index):
    """Different prompts, lengths and seeds; half of them sampled."""
    model = (GEMMA, RECURRENT)[index % 2]
    sampling = greedy() if index % 4 < 2 else pb.SamplingParams(temperature=0.8, top_p=0.95, seed=index % 10)
    return tokens(PROMPTS[index % len(PROMPTS)]["ids"], model, sampling=sampling,
                  stopping=pb.StoppingParams(max_new_tokens=12 + index % 9))


def test_many_streams(launch):
    fleet = launch(models=[GEMMA, RECURRENT], prefill_flags=["--chunk-tokens", "64"])
    alone = {}
    for index in range(STREAMS):
        request = numbered_request(index)
        key = request.SerializeToString()
        if index < 24 and key not in alone:
            alone[key] = list(fleet.generate(request).token_ids)
    answers = [None] * STREAMS
    channels = [fleet.new_channel() for _ in range(4)]

    def ask(index):
        stub = channels[index % len(channels)].unary_stream(
            "/baton.v1.Inference/GenerateStream", request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateEvent.FromString)
        answers[index] = Answer(stub(numbered_request(index), timeout=120))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for channel in channels:
        channel.close()
    compared = 0
    by_request = {}
    for index, answer in enumerate(answers):
        assert answer is not None, f"stream {index} failed"
        key = numbered_request(index).SerializeToString()
        assert by_request.setdefault(key, answer.ids) == answer.ids
        if key in alone:
            assert answer.ids == alone[key], f"stream {index} differs from the same request alone"
            compared += 1
        shown = fleet.inference.Detokenize(pb.DetokenizeRequest(model=answer.started.model, ids=answer.ids))
        assert answer.text == shown.text
    assert compared >= 24
    fleet.wait_idle()
    batches = [worker.metrics() for worker in fleet.decodes]
    assert any(sum(value for (name, _), value in samples.items() if name == "baton_step_sequences_sum")
               > sum(value for (name, _), value in samples.items() if name == "baton_step_sequences_count")
               for samples in batches), "sequences were decoded together"


def test_slow_reader_holds_nobody_back(launch):
    fleet = launch()
    request = long_request(200, 1500)
    request.output.logprobs = True
    request.output.top_logprobs = 20
    # A small window fills at once; nobody reads.
    slow_channel = grpc.insecure_channel(fleet.gateway.address, options=[
        ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)])
    slow = slow_channel.unary_stream(
        "/baton.v1.Inference/GenerateStream", request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateEvent.FromString)(request, timeout=120)
    wait_until(lambda: fleet.decodes[0].value("baton_requests_running") == 1, "the slow stream decodes")
    for _ in range(10):
        answer = Answer(fleet.stream(chat("What is the capital of France?", sampling=greedy())))
        assert answer.text == "The capital of France is Paris."
    # Its work ends all the same, by finishing or by giving up on the reader, and its memory comes back.
    fleet.wait_idle(60)
    try:
        assert len(Answer(slow).ids) == 1500
    except grpc.RpcError:
        assert slow.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "slow" in slow.details()
    slow_channel.close()


def test_long_prompts_do_not_hold_back_short_ones(launch):
    fleet = launch(prefill_flags=["--chunk-tokens", "32", "--inject-step-delay-ms", "30"])
    long_streams = [fleet.stream(long_request(900, 2)) for _ in range(3)]
    wait_until(lambda: fleet.prefills[0].value("baton_queued_tokens") > 1500, "long prompts are queued")
    answer = Answer(fleet.stream(chat("What is the capital of France?", sampling=greedy())))
    assert answer.text == "The capital of France is Paris."
    # First come, first served would have computed them all before.
    assert fleet.prefills[0].value("baton_queued_tokens") > 0
    for stream in long_streams:
        stream.cancel()
    fleet.wait_idle()


def test_cancelled_streams_raise_nothing(launch):
    fleet = launch()
    streams = [fleet.stream(long_request(50, 1800)) for _ in range(50)]
    for stream in streams:
        stream.cancel()
    for stream in streams:
        assert failure_of_stream(stream).code == grpc.StatusCode.CANCELLED
    fleet.wait_idle()
