"""Prompts that begin alike, over real processes: computed once, answered alike, and sent back to where they are cached."""
import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import Answer, exactly, failure_of, greedy, tokens
from process import wait_until

MODELS = [GEMMA, RECURRENT]


def prompt(length, seed):
    return [2] + [500 + (i * 7 + seed * 131 + i * i * seed) % 1400 for i in range(length - 1)]


def cached_tokens(fleet):
    return sum(prefill.value("baton_prompt_tokens_total", source="cached") for prefill in fleet.prefills)


def ask(fleet, ids, model, **fields):
    """The answer, and how many tokens of the prompt were cached."""
    before = cached_tokens(fleet)
    answer = Answer(fleet.stream(tokens(ids, model, sampling=greedy(), stopping=exactly(8), **fields)))
    cached = cached_tokens(fleet) - before
    assert answer.finished.usage.cached_prompt_tokens == cached
    return answer, cached


def wait_told(fleet):
    """Until the gateway knows what the workers have cached, and that their queues are empty."""
    def told():
        workers = {worker.endpoint: worker for worker in fleet.fleet.GetStatus(pb.GetStatusRequest()).workers}
        return all(workers[prefill.address].queued_tokens == 0 and
                   workers[prefill.address].cached_prefixes == prefill.value("baton_prefix_cache_resume_points")
                   for prefill in fleet.prefills)
    fleet.wait_idle()
    wait_until(told, "the gateway has heard of what is cached")


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(models=MODELS, prefill=2)


@pytest.fixture(scope="module")
def plain(launch):
    return launch(models=MODELS, prefill_flags=["--prefix-cache", "off"])


@pytest.mark.parametrize("model", MODELS)
def test_a_hit_answers_as_a_miss(fleet, plain, model):
    system = prompt(300, 1)
    hits = 0
    for turn in range(8):
        ids = system + prompt(40, 10 + turn)
        expected, cached = ask(plain, ids, model)
        assert cached == 0
        answer, cached = ask(fleet, ids, model)
        wait_told(fleet)
        assert answer.ids == expected.ids
        assert cached in (0, 256)
        hits += cached > 0
    # Where prompts part is known once two have been on one worker, whatever the family.
    assert hits >= 5
    fleet.wait_idle()


@pytest.mark.parametrize("model", MODELS)
def test_a_conversation_goes_back_to_its_worker(fleet, model):
    """With two workers of the model, each turn computes only what is new."""
    ids = prompt(200, 40)
    known = 0
    for turn in range(5):
        answer, cached = ask(fleet, ids, model)
        assert cached == known
        known = len(ids) // 64 * 64
        wait_told(fleet)
        ids = ids + answer.ids + prompt(100, 50 + turn)
    fleet.wait_idle()


def test_salts_keep_callers_apart(fleet):
    ids = prompt(200, 90)
    for salt in (b"one", b"two", b""):
        assert ask(fleet, ids, GEMMA, cache_salt=salt)[1] == 0
    failure = failure_of(lambda: ask(fleet, ids, GEMMA, cache_salt=b"x" * 129))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT


def test_scores_come_from_the_cache_and_are_the_same(fleet, plain):
    request = pb.ScoreRequest(model=RECURRENT, tokens=pb.TokenPrompt(ids=prompt(260, 77)), continuations=[
        pb.Continuation(tokens=pb.TokenPrompt(ids=[700 + i, 800 + i])) for i in range(6)])
    expected = plain.inference.Score(request, timeout=60)
    for _ in range(2):
        scores = fleet.inference.Score(request, timeout=60)
        assert [score.logprob for score in scores.scores] == [score.logprob for score in expected.scores]
    fleet.wait_idle()
