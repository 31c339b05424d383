"""Requests of all kinds that give the same answer each time, and what a client reads of them: for comparing one run with
another. Needs tests/e2e on the path."""
import collections
import time

import grpc

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import chat, tokens

MODELS = (GEMMA, RECURRENT)


def requests(count, chance, long):
    """So many different ones; each gives the same answer every time. `long`: some take seconds by themselves."""
    made = []
    for i in range(count):
        sampling = pb.SamplingParams(temperature=chance.choice([0, 0.8, 1.2]), seed=chance.randrange(1 << 63))
        if chance.random() < 0.4:
            sampling.repetition_penalty = 1.3
            sampling.frequency_penalty = 0.5
        if chance.random() < 0.3:
            sampling.top_k = 40
        most = chance.choice([160, 160, 500 if long else 160])
        stopping = pb.StoppingParams(max_new_tokens=chance.randint(1, most), ignore_eos=chance.random() < 0.7)
        if chance.random() < 0.3:
            stopping.stop.extend(["e t", "the", "ing "])
        output = pb.OutputParams(logprobs=chance.random() < 0.5, prompt_logprobs=chance.random() < 0.15)
        fields = dict(model=MODELS[i % len(MODELS)], sampling=sampling, stopping=stopping, output=output,
                      request_id=f"chaos-{i}")
        if chance.random() < 0.2:
            fields["n"] = chance.randint(2, 4)
        if chance.random() < 0.3:
            made.append(chat(chance.choice(["What is the capital of France?", "Tell me a story", "Count"]), **fields))
        else:
            length = chance.choice([3, 40, 200, 600, 1500 if long else 600])
            prompt = [2] + [chance.randrange(300, 2000) for _ in range(length)]
            made.append(tokens(prompt, **fields))
    return made


class Stream:
    """What a client has read of one request."""

    def __init__(self):
        self.choices = collections.defaultdict(lambda: ["", [], []])
        self.prompt = []
        self.end = None
        self.tokens = 0
        self.longest_pause = 0.0
        self.error = None
        self.seconds = 0.0

    def read(self, call):
        start = last = time.monotonic()
        try:
            for event in call:
                now = time.monotonic()
                if self.tokens:
                    self.longest_pause = max(self.longest_pause, now - last)
                last = now
                self._add(event)
        except grpc.RpcError as error:
            self.error = error
        self.seconds = time.monotonic() - start
        return self

    def _add(self, event):
        kind = event.WhichOneof("event")
        if kind == "delta":
            choice = self.choices[event.delta.choice]
            choice[0] += event.delta.text
            choice[1] += event.delta.token_ids
            choice[2] += [logprob.SerializeToString(deterministic=True) for logprob in event.delta.logprobs]
            self.tokens += len(event.delta.token_ids)
        elif kind == "prompt_logprobs":
            self.prompt += [score.SerializeToString(deterministic=True) for score in event.prompt_logprobs.tokens]
        elif kind == "finished":
            finished = event.finished
            self.end = [(finished.reason, str(finished.match), finished.usage.prompt_tokens,
                         finished.usage.completion_tokens)]
            self.end += [(end.choice, end.seed, end.reason, str(end.match), end.usage.completion_tokens,
                          end.cumulative_logprob) for end in finished.choices]

    def signature(self):
        return {index: tuple(map(tuple, choice)) for index, choice in self.choices.items()}, tuple(self.prompt), self.end
