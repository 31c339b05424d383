"""Workers that hang before the first token, at a gateway that hedges: the answer comes from others, token for token, long
before anybody counts as hung; and whoever wakes up has let go of what nobody wants any more."""
import os
import threading

import pytest

from baton.v1 import inference_pb2 as pb
from messages import exactly, tokens
from process import wait_until

# A prompt takes 0.6 s: time to stop whoever computes it.
OPTIONS = {
    "prefill": 2,
    "decode": 2,
    "prefill_flags": ["--chunk-tokens", "8", "--inject-step-delay-ms", "30"],
    "gateway_flags": ["--hedge-after", "0.2", "--stall-timeout", "60"],
}
PROMPT = [2] + [1000 + i % 900 for i in range(159)]
NEW = 20


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(**OPTIONS)


def request(n=None, **fields):
    sampling = pb.SamplingParams(temperature=1, seed=7, repetition_penalty=1.3)
    output = pb.OutputParams(logprobs=True)
    return tokens(PROMPT, sampling=sampling, stopping=exactly(NEW), output=output, n=n, cache_salt=os.urandom(8),
                  **fields)


def signature(events):
    text, ids, logprobs = {}, {}, {}
    for event in events:
        choice = event.delta.choice
        text[choice] = text.get(choice, "") + event.delta.text
        ids.setdefault(choice, []).extend(event.delta.token_ids)
        logprobs.setdefault(choice, []).extend(map(str, event.delta.logprobs))
    return text, ids, logprobs


@pytest.fixture(scope="module")
def undisturbed(fleet):
    answers = {n: signature(fleet.stream(request(n))) for n in (None, 2)}
    # Prompts take their time; that is no reason.
    assert fleet.gateway.value("baton_hedges_total") == 0
    fleet.wait_idle()
    return answers


class Asking:
    """A stream that is read on a thread of its own."""

    def __init__(self, stream):
        self._stream = stream
        self._result = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            self._result = signature(self._stream)
        except Exception as error:  # pylint: disable=broad-except
            self._result = error

    def answer(self):
        self._thread.join(50)
        assert not self._thread.is_alive(), "the stream did not end"
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def hedges(fleet):
    return {result: fleet.gateway.value("baton_hedges_total", result=result)
            for result in ("won", "lost", "failed", "took_over", "cancelled")}


def expect_only(fleet, before, **more):
    after = hedges(fleet)
    assert {result: after[result] - before[result] for result in after} == {**dict.fromkeys(after, 0), **more}
    for name in ("baton_retries_total", "baton_resumes_total", "baton_worker_pauses_total"):
        assert fleet.gateway.value(name) == 0


@pytest.mark.parametrize("n", [None, 2])
def test_a_prefill_worker_that_hangs(fleet, undisturbed, n):
    before = hedges(fleet)
    asking = Asking(fleet.stream(request(n)))
    victim = wait_until(lambda: [worker for worker in fleet.prefills if worker.value("baton_requests_running") > 0],
                        "a prefill worker has it")[0]
    victim.stop()
    try:
        assert asking.answer() == undisturbed[n]
        expect_only(fleet, before, won=1)
        survivors = [worker for worker in fleet.workers() if worker is not victim]
        # What is left of the loser hangs on a call that the stopped worker knows nothing of.
        wait_until(lambda: all(worker.value("baton_requests_running") == 0 for worker in survivors), "survivors are idle")
    finally:
        victim.go_on()
    fleet.wait_ready(2, 2)
    fleet.wait_idle()


def test_a_decode_worker_that_hangs(fleet, undisturbed):
    before = hedges(fleet)
    victim = fleet.decodes[0]
    victim.stop()
    try:
        # The second goes where the first does not.
        asking = [Asking(fleet.stream(request())) for _ in range(2)]
        for each in asking:
            assert each.answer() == undisturbed[None]
        expect_only(fleet, before, won=1)
    finally:
        victim.go_on()
    fleet.wait_ready(2, 2)
    fleet.wait_idle()


def test_a_trace_shows_both(fleet, undisturbed):
    asking = Asking(fleet.stream(request(request_id="hedged")))
    victim = wait_until(lambda: [worker for worker in fleet.prefills if worker.value("baton_requests_running") > 0],
                        "a prefill worker has it")[0]
    victim.stop()
    try:
        assert asking.answer() == undisturbed[None]
    finally:
        victim.go_on()
    trace = fleet.fleet.GetTrace(pb.GetTraceRequest(request_id="hedged"), timeout=20)
    races = [{attribute.key: attribute.text for attribute in span.attributes}.get("baton.race")
             for span in trace.spans if span.name == "attempt"]
    assert races == ["lost", "won"]
    fleet.wait_ready(2, 2)
    fleet.wait_idle()
