"""Prompts that the decode worker computes itself, over real processes: the same answers, bit for bit, as with a prefill
worker and a handoff, for every family, for samples and for turns that go on from a kept state."""
import subprocess

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from fleet import GEMMA, RECURRENT, ROOT
from messages import Answer, exactly, greedy, tokens
from process import BIN_DIR, wait_until

GOLDEN = ROOT / "tests" / "data" / "golden"
GEMMA1 = "gemma-tiny"
MODELS = [GEMMA, RECURRENT, GEMMA1]
CHUNK = 64
SAMPLED = pb.SamplingParams(temperature=1.3, top_p=0.95, seed=5, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def fleet(launch, tmp_path_factory):
    gemma1 = tmp_path_factory.mktemp("models") / GEMMA1
    subprocess.run([BIN_DIR / "baton", "synth", "--config", GOLDEN / GEMMA1 / "config.json", "--seed", "101",
                    "--out", gemma1], check=True, capture_output=True, timeout=60)
    return launch(models=[GEMMA, RECURRENT, str(gemma1)], prefill_flags=["--prefix-cache", "off"],
                  decode_flags=["--local-prefill-chunk", str(CHUNK)])


@pytest.fixture(scope="module")
def local(fleet):
    """A second gateway, which asks for no prefill worker if it can."""
    gateway = fleet.start_gateway(["--local-prefill-tokens", "64"])
    channel = grpc.insecure_channel(gateway.address)
    wait_until(lambda: gateway.value("baton_workers", state="serving") == 2 * len(MODELS), "all workers serving")
    stub = inference_pb2_grpc.InferenceStub(channel)
    stub.fleet = inference_pb2_grpc.FleetStub(channel)
    yield stub
    channel.close()
    gateway.close()


def ids_of(count, start=0):
    return [2] + [300 + (start + i * 7) % 150 for i in range(count - 1)]


def prefills(fleet):
    return sum(decode.value("baton_local_prefills_total") for decode in fleet.decodes)


def wait_told(local):
    """Until the gateway knows that its decode workers are idle: beside others, a prefill worker is sooner."""
    wait_until(lambda: all(worker.running == 0 for worker in local.fleet.GetStatus(pb.GetStatusRequest()).workers),
               "the gateway has heard that nothing runs")


def expect_same(mine, theirs):
    assert list(mine.token_ids) == list(theirs.token_ids)
    assert [(p.logprob, list(p.top)) for p in mine.logprobs] == [(p.logprob, list(p.top)) for p in theirs.logprobs]
    assert mine.text == theirs.text
    assert mine.finished.reason == theirs.finished.reason
    assert mine.finished.usage == theirs.finished.usage


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 64])
def test_local_equals_separated(fleet, local, model, length):
    for sampling in (greedy(), SAMPLED):
        request = tokens(ids_of(length), model, sampling=sampling, stopping=exactly(12),
                         output=pb.OutputParams(logprobs=True, top_logprobs=3))
        before = prefills(fleet)
        wait_told(local)
        mine = local.Generate(request, timeout=60)
        assert prefills(fleet) == before + 1
        expect_same(mine, fleet.generate(request))
        assert prefills(fleet) == before + 1, "the other gateway has it turned off"
    fleet.wait_idle()


@pytest.mark.parametrize("model", MODELS)
def test_streams_in_company(fleet, local, model):
    requests = [tokens(ids_of(5 + 9 * i, i), model, sampling=SAMPLED, stopping=exactly(30)) for i in range(6)]
    streams = [local.GenerateStream(request, timeout=60) for request in requests]
    for request, stream in zip(requests, streams):
        answer = Answer(stream)
        assert answer.ids == list(fleet.generate(request).token_ids)
        assert answer.finished.usage.completion_tokens == 30
    fleet.wait_idle()


@pytest.mark.parametrize("model", MODELS)
def test_samples(fleet, local, model):
    wait_told(local)
    before = prefills(fleet)
    request = tokens(ids_of(20), model, n=4, sampling=SAMPLED, stopping=exactly(10))
    mine, theirs = local.Generate(request, timeout=60), fleet.generate(request)
    assert prefills(fleet) == before + 1
    assert len(mine.choices) == 4
    assert list(mine.choices) == list(theirs.choices)
    fleet.wait_idle()


@pytest.mark.parametrize("model", MODELS)
def test_a_turn_goes_on_where_its_state_is(fleet, local, model):
    fields = dict(sampling=SAMPLED, stopping=exactly(8), output=pb.OutputParams(logprobs=True))
    conversation = ids_of(100)
    # Too long to be local; what follows it is not.
    before = prefills(fleet)
    turn = local.Generate(tokens(conversation, model, keep_state=True, **fields), timeout=60)
    assert prefills(fleet) == before
    for number, new in enumerate((ids_of(3, 50), ids_of(30, 60)), start=1):
        conversation = conversation + list(turn.token_ids) + new
        wait_told(local)
        turn = local.Generate(tokens(new, model, session=turn.finished.session.handle, keep_state=True, **fields),
                              timeout=60)
        assert prefills(fleet) == before + number
        whole = fleet.generate(tokens(conversation, model, **fields))
        assert list(turn.token_ids) == list(whole.token_ids)
        assert list(turn.logprobs) == list(whole.logprobs)
        assert turn.finished.usage.prompt_tokens == len(conversation)
        assert turn.finished.usage.cached_prompt_tokens == len(conversation) - len(new) - 1


def test_a_worker_that_offers_nothing_is_asked_for_nothing(launch):
    fleet = launch(decode_flags=["--local-prefill-chunk", "0"], gateway_flags=["--local-prefill-tokens", "64"])
    assert len(fleet.generate(tokens(ids_of(4), sampling=greedy(), stopping=exactly(5))).token_ids) == 5
    assert prefills(fleet) == 0
    assert fleet.prefills[0].value("baton_prompt_tokens_total", source="computed") == 4
