"""Building requests, and reading answers and errors."""
import grpc
from google.rpc import error_details_pb2

from baton.v1 import inference_pb2 as pb


def chat(text, model="tiny-gemma2", **fields):
    return pb.GenerateRequest(model=model, chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)]),
                              **fields)


def tokens(ids, model="tiny-gemma2", **fields):
    return pb.GenerateRequest(model=model, tokens=pb.TokenPrompt(ids=ids), **fields)


def greedy():
    return pb.SamplingParams(temperature=0)


def exactly(count):
    """Stopping parameters that make `count` tokens, whatever they are."""
    return pb.StoppingParams(max_new_tokens=count, ignore_eos=True)


def long_request(prompt_tokens, new_tokens, model="tiny-gemma2", **fields):
    ids = [2] + [1000 + i % 900 for i in range(prompt_tokens - 1)]
    return tokens(ids, model, sampling=greedy(), stopping=exactly(new_tokens), **fields)


class Answer:
    """A stream read to its end, held to the order that the API promises."""

    def __init__(self, events):
        self.text = ""
        self.ids = []
        self.logprobs = []
        self.prompt_logprobs = []
        self.started = None
        self.finished = None
        for event in events:
            kind = event.WhichOneof("event")
            assert self.finished is None, f"{kind} after finished"
            assert (kind == "started") == (self.started is None), f"{kind} out of order"
            if kind == "started":
                self.started = event.started
            elif kind == "prompt_logprobs":
                self.prompt_logprobs += event.prompt_logprobs.tokens
            elif kind == "delta":
                self.text += event.delta.text
                self.ids += event.delta.token_ids
                self.logprobs += event.delta.logprobs
            else:
                self.finished = event.finished
        assert self.finished is not None, "the stream ended without finished"


def next_delta(stream):
    """The first delta of a stream just opened."""
    for event in stream:
        if event.WhichOneof("event") == "delta":
            return event.delta
    raise AssertionError("no delta")


class Failure:
    """A gRPC error with its google.rpc details."""

    def __init__(self, error):
        self.code = error.code()
        self.message = error.details()
        self.reason = ""
        self.retry_seconds = None
        self.violations = {}
        metadata = dict(error.trailing_metadata() or ())
        status = error_details_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                assert info.domain == "baton"
                self.reason = info.reason
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                self.retry_seconds = delay.seconds + delay.nanos / 1e9
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                for violation in error_details_pb2.BadRequest.FromString(detail.value).field_violations:
                    self.violations[violation.field] = violation.description

    def __repr__(self):
        return f"{self.code.name} {self.reason} {self.message!r} {self.violations}"


def failure_of(call):
    """Runs `call`, which must fail with a gRPC error."""
    try:
        result = call()
    except grpc.RpcError as error:
        return Failure(error)
    raise AssertionError(f"expected an error, got {result}")


def failure_of_stream(stream):
    return failure_of(lambda: [event for event in stream])
