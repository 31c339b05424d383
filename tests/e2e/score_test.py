"""Score agrees with what generation reports of the same tokens, bit for bit."""
import math

import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import Answer, chat, greedy, tokens

CONTEXT = [2, 379, 305, 272, 362, 280, 507, 1982, 580, 2002]
CONTINUATIONS = [[323, 362, 280], [1000], [1500, 7, 300, 12, 2047, 0]]


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(models=[GEMMA, RECURRENT])


def score(fleet, model, context, continuations, **fields):
    request = pb.ScoreRequest(model=model, tokens=pb.TokenPrompt(ids=context), **fields)
    for continuation in continuations:
        request.continuations.add().tokens.ids.extend(continuation)
    return fleet.inference.Score(request, timeout=60)


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_equals_prompt_logprobs(fleet, model):
    response = score(fleet, model, CONTEXT, CONTINUATIONS, top_logprobs=4)
    assert len(response.scores) == len(CONTINUATIONS)
    for continuation, scored in zip(CONTINUATIONS, response.scores):
        request = tokens(CONTEXT + continuation, model, stopping=pb.StoppingParams(max_new_tokens=1),
                         output=pb.OutputParams(prompt_logprobs=True, top_logprobs=4))
        expected = Answer(fleet.stream(request)).prompt_logprobs[-len(continuation):]
        assert list(scored.tokens) == expected
        assert [token.id for token in scored.tokens] == continuation
        assert math.isclose(scored.logprob, sum(token.logprob for token in expected), rel_tol=1e-5)
        for token in scored.tokens:
            assert token.logprob < 0 and len(token.top) == 4
            assert [top.logprob for top in token.top] == sorted((top.logprob for top in token.top), reverse=True)


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_equals_the_logprobs_of_generated_tokens(fleet, model):
    request = chat("What is the capital of France?", model, sampling=greedy(),
                   stopping=pb.StoppingParams(include_stop_in_output=True), output=pb.OutputParams(logprobs=True))
    generated = Answer(fleet.stream(request))
    prompt = fleet.inference.Tokenize(pb.TokenizeRequest(model=model, chat=request.chat)).ids
    scored = score(fleet, model, list(prompt), [generated.ids]).scores[0]
    assert [token.logprob for token in scored.tokens] == [token.logprob for token in generated.logprobs]
    assert scored.is_greedy
    # Any other answer is less likely, and not greedy.
    wrong = [*generated.ids[:-3], 1000]
    other = score(fleet, model, list(prompt), [wrong]).scores[0]
    assert not other.is_greedy
    assert other.tokens[-1].logprob < scored.tokens[len(wrong) - 1].logprob


def test_text_is_tokenized_by_itself(fleet):
    texts = [" Paris", " London", "\n\nx"]
    request = pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="The capital of France is"))
    for text in texts:
        request.continuations.add(text=text)
    response = fleet.inference.Score(request, timeout=60)

    def ids_of(text, add_bos):
        prompt = pb.TextPrompt(text=text, add_bos=add_bos)
        return list(fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=prompt)).ids)

    context = ids_of(request.text.text, True)
    by_tokens = score(fleet, GEMMA, context, [ids_of(text, False) for text in texts])
    assert list(response.scores) == list(by_tokens.scores)


def test_a_continuation_does_not_depend_on_the_others(fleet):
    together = score(fleet, RECURRENT, CONTEXT, CONTINUATIONS * 20).scores
    for index, continuation in enumerate(CONTINUATIONS):
        alone = score(fleet, RECURRENT, CONTEXT, [continuation]).scores[0]
        assert all(scored == alone for scored in together[index::len(CONTINUATIONS)])


def test_leaves_nothing_behind(fleet):
    fleet.wait_idle()
