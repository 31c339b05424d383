"""Several samples of one prompt over real processes: each is what its request alone gives, bit for bit; ends, early stops
and drops free what they held."""
import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import Answer, chat, exactly, failure_of, greedy, long_request, next_delta
from process import wait_until

MODELS = [GEMMA, RECURRENT]
STORY = "Tell me something about rivers, mountains and the sea."


@pytest.fixture(scope="module")
def fleet(launch):
    # Chunks and batches that cut through prompts and requests.
    return launch(models=MODELS, prefill_flags=["--chunk-tokens", "16", "--prefix-cache", "off"],
                  decode_flags=["--max-batch", "5"])


def sample_seed(seed, sample):
    """As docs/api.md says it."""
    mask = (1 << 64) - 1
    mixed = ((sample ^ (sample >> 30)) * 0xbf58476d1ce4e5b9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94d049bb133111eb) & mask
    return seed ^ mixed ^ (mixed >> 31)


def with_n(request, n, **fields):
    out = pb.GenerateRequest(n=n, **fields)
    out.MergeFrom(request)
    return out


def alone(request, seed):
    out = pb.GenerateRequest()
    out.CopyFrom(request)
    out.sampling.seed = seed
    return out


REQUESTS = {
    "greedy": dict(sampling=greedy(), stopping=exactly(24)),
    "sampled": dict(sampling=pb.SamplingParams(temperature=1.5, seed=7), stopping=exactly(40)),
    "penalties": dict(sampling=pb.SamplingParams(temperature=1.2, top_p=0.95, repetition_penalty=1.3,
                                                 frequency_penalty=0.4, seed=99), stopping=exactly(40)),
    # What ends some of them sooner than others.
    "stop": dict(sampling=pb.SamplingParams(temperature=1.5, seed=21),
                 stopping=pb.StoppingParams(max_new_tokens=60, stop=["e", "th", "."])),
    "first": dict(sampling=pb.SamplingParams(temperature=1.5, seed=3), stopping=exactly(1)),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", REQUESTS)
def test_each_sample_equals_its_request_alone(fleet, model, kind):
    request = chat(STORY, model, output=pb.OutputParams(logprobs=True), **REQUESTS[kind])
    response = fleet.generate(with_n(request, 8))
    assert len(response.choices) == 8
    seeds = [choice.finished.seed for choice in response.choices]
    assert seeds == [sample_seed(response.seed, i) for i in range(8)]
    for index, choice in enumerate(response.choices):
        single = fleet.generate(alone(request, seeds[index]))
        assert list(choice.token_ids) == list(single.token_ids), f"choice {index}"
        assert choice.text == single.text
        assert list(choice.logprobs) == list(single.logprobs)
        assert choice.finished.reason == single.finished.reason
        assert choice.finished.match == single.finished.match
        assert choice.finished.usage == single.finished.usage
        with_one = fleet.generate(with_n(alone(request, seeds[index]), 1))
        assert choice.finished.cumulative_logprob == with_one.choices[0].finished.cumulative_logprob
    assert response.text == response.choices[0].text
    usage = response.finished.usage
    assert usage.completion_tokens == sum(choice.finished.usage.completion_tokens for choice in response.choices)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    if kind == "sampled":
        assert len({tuple(choice.token_ids) for choice in response.choices}) > 1


def test_the_stream_tells_choices_apart(fleet):
    request = chat(STORY, GEMMA, **REQUESTS["stop"])
    response = fleet.generate(with_n(request, 6))
    texts, ids, ends, finished = {}, {}, {}, None
    for event in fleet.stream(with_n(request, 6)):
        kind = event.WhichOneof("event")
        assert finished is None
        if kind == "delta":
            assert event.delta.choice not in ends
            texts[event.delta.choice] = texts.get(event.delta.choice, "") + event.delta.text
            ids.setdefault(event.delta.choice, []).extend(event.delta.token_ids)
        elif kind == "choice_finished":
            ends[event.choice_finished.choice] = event.choice_finished
        elif kind == "finished":
            finished = event.finished
    assert sorted(ends) == list(range(6))
    for index, choice in enumerate(response.choices):
        assert texts.get(index, "") == choice.text
        assert ids.get(index, []) == list(choice.token_ids)
        assert ends[index].reason == choice.finished.reason
        assert finished.choices[index] == choice.finished


def test_prompt_is_computed_and_handed_over_once(fleet):
    decode, prefill = fleet.decodes[0], fleet.prefills[0]
    before = [prefill.value("baton_prompt_tokens_total", source="computed"), decode.value("baton_handoff_bytes_total")]
    fleet.generate(long_request(200, 4))
    single = [prefill.value("baton_prompt_tokens_total", source="computed"), decode.value("baton_handoff_bytes_total")]
    fleet.generate(with_n(long_request(200, 4), 32))
    many = [prefill.value("baton_prompt_tokens_total", source="computed"), decode.value("baton_handoff_bytes_total")]
    assert many[0] - single[0] == single[0] - before[0] == 200
    # But for the list of first tokens.
    assert 0 <= (many[1] - single[1]) - (single[1] - before[1]) <= 8 + 31 * 12


def test_stop_after_ends_the_rest(fleet):
    request = chat(STORY, RECURRENT, sampling=pb.SamplingParams(temperature=1.5, seed=5),
                   stopping=pb.StoppingParams(max_new_tokens=2000, ignore_eos=True, stop=["e"]))
    response = fleet.generate(with_n(request, 8, stop_after=3))
    reasons = [choice.finished.reason for choice in response.choices]
    assert reasons.count(pb.FINISH_REASON_STOP) >= 3
    cut = [choice for choice in response.choices if choice.finished.reason == pb.FINISH_REASON_CANCELLED]
    assert len(cut) + reasons.count(pb.FINISH_REASON_STOP) == 8
    # A cut choice is a beginning of the same request alone.
    for choice in cut[:2]:
        single = fleet.generate(alone(request, choice.finished.seed))
        count = len(choice.token_ids)
        assert list(single.token_ids)[:count] == list(choice.token_ids)
    fleet.wait_idle()


def test_a_sample_that_ends_frees_its_memory_while_others_go_on(launch_for_test):
    fleet = launch_for_test(decode_flags=["--inject-step-delay-ms", "20"])
    idle = fleet.decodes[0].value("baton_state_bytes_used")
    request = chat(STORY, GEMMA, sampling=pb.SamplingParams(temperature=1.5, seed=5),
                   stopping=pb.StoppingParams(max_new_tokens=1500, ignore_eos=True, stop=["a", "e", "o"]))
    stream = fleet.stream(with_n(request, 16))
    most = 0
    for event in stream:
        if event.WhichOneof("event") == "delta" and not most:
            most = fleet.decodes[0].value("baton_state_bytes_used")
            assert most > idle
        if event.WhichOneof("event") == "choice_finished":
            wait_until(lambda: fleet.decodes[0].value("baton_state_bytes_used") < most, "a sample's memory is free")
            break
    stream.cancel()
    fleet.wait_idle()


def test_dropping_the_stream_ends_all(launch_for_test):
    fleet = launch_for_test(decode_flags=["--inject-step-delay-ms", "20"])
    stream = fleet.stream(with_n(long_request(20, 1500), 24))
    next_delta(stream)
    wait_until(lambda: fleet.decodes[0].value("baton_requests_running") == 24, "24 sequences run")
    stream.cancel()
    fleet.wait_idle()


# Not of the tiny recurrent model: its window is hardly longer than a page, so there is nothing to share.
def test_64_samples_hold_far_less_than_64_requests(launch_for_test):
    fleet = launch_for_test(decode_flags=["--inject-step-delay-ms", "5"])
    decode = fleet.decodes[0]

    def held_by(n):
        stream = fleet.stream(with_n(long_request(1500, 40), n))
        next_delta(stream)
        held = decode.value("baton_state_bytes_used")
        while held == 0 or decode.value("baton_requests_waiting") > 0:
            held = decode.value("baton_state_bytes_used")
        for _ in stream:
            pass
        fleet.wait_idle()
        return held

    one, many = held_by(1), held_by(64)
    assert one < many < 64 * one / 6, (one, many)


def test_bad_counts_are_named(fleet):
    for fields, field in [(dict(n=0), "n"), (dict(n=129), "n"), (dict(n=4, stop_after=5), "stop_after"),
                          (dict(stop_after=2), "stop_after")]:
        failure = failure_of(lambda: fleet.generate(chat("Hi", GEMMA, **fields)))
        assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
        assert field in failure.violations


def test_one_client_sees_no_choices(fleet):
    request = chat(STORY, GEMMA, **REQUESTS["sampled"])
    response = fleet.generate(request)
    assert not response.choices and not response.finished.choices
    answer = Answer(fleet.stream(request))
    assert not answer.started.seeds and not answer.finished.choices
    assert answer.ids == list(response.token_ids)


def test_leaves_nothing_behind(fleet):
    fleet.wait_idle()
