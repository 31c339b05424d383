"""Every kind of bad request: a status code, the field, and a message that says what to do."""
import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import Answer, chat, failure_of, greedy, tokens

NAN = float("nan")
INF = float("inf")


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(models=[GEMMA, RECURRENT])


def with_chat(*turns):
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return pb.GenerateRequest(model=GEMMA, chat=pb.ChatPrompt(messages=messages))


def sampling(**fields):
    return chat("Hi", sampling=pb.SamplingParams(**fields))


def stopping(**fields):
    return chat("Hi", stopping=pb.StoppingParams(**fields))


def output(**fields):
    return chat("Hi", output=pb.OutputParams(**fields))


GENERATE = {
    "no prompt": (pb.GenerateRequest(model=GEMMA), "prompt"),
    "empty tokens": (tokens([]), "tokens.ids"),
    "negative token": (tokens([2, -1]), "tokens.ids"),
    "token beyond the vocabulary": (tokens([2, 2048]), "tokens.ids"),
    "text without tokens": (pb.GenerateRequest(model=GEMMA, text=pb.TextPrompt(text="", add_bos=False)), "text"),
    "prompt too long": (tokens([2] * 5000), "tokens.ids"),
    "text too long": (pb.GenerateRequest(model=GEMMA, text=pb.TextPrompt(text="word " * 5000)), "text"),
    "no messages": (with_chat(), "chat.messages"),
    "system role": (with_chat(("system", "Be brief.")), "chat.messages"),
    "unknown role": (with_chat(("tool", "x")), "chat.messages"),
    "model first": (with_chat(("model", "x")), "chat.messages"),
    "two users": (with_chat(("user", "x"), ("user", "y")), "chat.messages"),
    "last is the model's": (with_chat(("user", "x"), ("model", "y")), "chat.messages"),
    "negative temperature": (sampling(temperature=-1), "sampling.temperature"),
    "NaN temperature": (sampling(temperature=NAN), "sampling.temperature"),
    "infinite temperature": (sampling(temperature=INF), "sampling.temperature"),
    "top_k": (sampling(top_k=-2), "sampling.top_k"),
    "top_p zero": (sampling(top_p=0), "sampling.top_p"),
    "top_p above one": (sampling(top_p=1.5), "sampling.top_p"),
    "top_p NaN": (sampling(top_p=NAN), "sampling.top_p"),
    "min_p": (sampling(min_p=-0.5), "sampling.min_p"),
    "typical_p": (sampling(typical_p=0), "sampling.typical_p"),
    "repetition_penalty": (sampling(repetition_penalty=0), "sampling.repetition_penalty"),
    "presence_penalty": (sampling(presence_penalty=2.5), "sampling.presence_penalty"),
    "frequency_penalty": (sampling(frequency_penalty=-2.5), "sampling.frequency_penalty"),
    "bias too large": (sampling(logit_bias={7: 101}), "sampling.logit_bias[7]"),
    "bias of no token": (sampling(logit_bias={2048: 1}), "sampling.logit_bias[2048]"),
    "too many biases": (sampling(logit_bias={i: 1 for i in range(1025)}), "sampling.logit_bias"),
    "allowed token": (sampling(allowed_token_ids=[1, -5]), "sampling.allowed_token_ids[1]"),
    "zero max_new_tokens": (stopping(max_new_tokens=0), "stopping.max_new_tokens"),
    "negative max_new_tokens": (stopping(max_new_tokens=-3), "stopping.max_new_tokens"),
    "negative min_new_tokens": (stopping(min_new_tokens=-1), "stopping.min_new_tokens"),
    "min above max": (stopping(min_new_tokens=9, max_new_tokens=8), "stopping.min_new_tokens"),
    "too many stops": (stopping(stop=["x"] * 17), "stopping.stop"),
    "empty stop": (stopping(stop=["x", ""]), "stopping.stop[1]"),
    "long stop": (stopping(stop=["x" * 257]), "stopping.stop[0]"),
    "stop token": (stopping(stop_token_ids=[4000]), "stopping.stop_token_ids"),
    "zero time limit": (stopping(time_limit_seconds=0), "stopping.time_limit_seconds"),
    "NaN time limit": (stopping(time_limit_seconds=NAN), "stopping.time_limit_seconds"),
    "negative top_logprobs": (output(top_logprobs=-1), "output.top_logprobs"),
    "too many top_logprobs": (output(top_logprobs=21), "output.top_logprobs"),
    "priority": (chat("Hi", priority=101), "priority"),
    "request id with a newline": (chat("Hi", request_id="a\nb"), "request_id"),
    "long request id": (chat("Hi", request_id="x" * 129), "request_id"),
}


def assert_violation(failure, field):
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT, failure
    matching = [name for name in failure.violations if name == field or name.startswith(field + "[")]
    assert matching, f"{field} is not in {failure}"
    assert failure.message and all(failure.violations.values())
    assert len(failure.message) < 400


@pytest.mark.parametrize("name", GENERATE)
def test_generate(fleet, name):
    request, field = GENERATE[name]
    assert_violation(failure_of(lambda: fleet.generate(request)), field)
    assert_violation(failure_of(lambda: list(fleet.stream(request))), field)


SCORE = {
    "no context": (pb.ScoreRequest(model=GEMMA, continuations=[pb.Continuation(text="x")]), "context"),
    "no continuations": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x")), "continuations"),
    "too many continuations": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"),
                                               continuations=[pb.Continuation(text="x")] * 257), "continuations"),
    "empty continuation": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"),
                                           continuations=[pb.Continuation(text="x"), pb.Continuation()]),
                           "continuations[1]"),
    "continuation without tokens": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"),
                                                    continuations=[pb.Continuation(text="")]), "continuations[0]"),
    "bad token": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"), continuations=[
        pb.Continuation(tokens=pb.TokenPrompt(ids=[5000]))]), "continuations[0].tokens.ids"),
    "too long": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"), continuations=[
        pb.Continuation(tokens=pb.TokenPrompt(ids=[7] * 5000))]), "continuations[0]"),
    "top_logprobs": (pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="x"), top_logprobs=21,
                                     continuations=[pb.Continuation(text="x")]), "top_logprobs"),
}


@pytest.mark.parametrize("name", SCORE)
def test_score(fleet, name):
    request, field = SCORE[name]
    assert_violation(failure_of(lambda: fleet.inference.Score(request, timeout=20)), field)


def test_tokenize_and_detokenize(fleet):
    failure = failure_of(lambda: fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA)))
    assert_violation(failure, "input")
    failure = failure_of(lambda: fleet.inference.Detokenize(pb.DetokenizeRequest(model=GEMMA, ids=[0, 9999])))
    assert_violation(failure, "ids")


def test_unknown_model(fleet):
    for call in (lambda: fleet.generate(chat("Hi", "no-such-model")),
                 lambda: list(fleet.stream(chat("Hi", "no-such-model"))),
                 lambda: fleet.inference.Tokenize(pb.TokenizeRequest(model="no-such-model"))):
        failure = failure_of(call)
        assert failure.code == grpc.StatusCode.NOT_FOUND
        assert failure.reason == "MODEL_NOT_FOUND"
        assert GEMMA in failure.message, "says what there is"


def test_model_must_be_named_when_there_are_two(fleet):
    failure = failure_of(lambda: fleet.generate(chat("Hi", "")))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "MODEL_AMBIGUOUS"


def test_all_violations_at_once(fleet):
    request = chat("Hi", sampling=pb.SamplingParams(temperature=-1, top_p=2),
                   stopping=pb.StoppingParams(max_new_tokens=0))
    failure = failure_of(lambda: fleet.generate(request))
    assert set(failure.violations) >= {"sampling.temperature", "sampling.top_p", "stopping.max_new_tokens"}


def test_invalid_utf8_on_the_wire(fleet):
    # Python's protobuf refuses to make such a message, so the bytes are spelled: text { text: "\xff" }.
    raw = pb.GenerateRequest(model=GEMMA).SerializeToString() + b"\x12\x03\x0a\x01\xff"
    call = fleet.channel.unary_unary("/baton.v1.Inference/Generate")
    failure = failure_of(lambda: call(raw, timeout=20))
    # gRPC's own answer to what is no message of the method's type.
    assert failure.code == grpc.StatusCode.UNIMPLEMENTED, failure


def test_garbage_on_the_wire(fleet):
    for raw in (b"\xff" * 20, b"\x12\x7f", b"\x08"):
        call = fleet.channel.unary_unary("/baton.v1.Inference/Generate")
        assert failure_of(lambda: call(raw, timeout=20)).code == grpc.StatusCode.UNIMPLEMENTED


def test_unknown_method(fleet):
    call = fleet.channel.unary_unary("/baton.v1.Inference/NoSuchMethod")
    assert failure_of(lambda: call(b"", timeout=20)).code == grpc.StatusCode.UNIMPLEMENTED


def test_none_of_it_did_any_harm(fleet):
    for model in (GEMMA, RECURRENT):
        answer = Answer(fleet.stream(chat("What is the capital of France?", model, sampling=greedy())))
        assert answer.text == "The capital of France is Paris."
    fleet.wait_idle()
    assert fleet.gateway.value("baton_requests_total", outcome="invalid") > 80
