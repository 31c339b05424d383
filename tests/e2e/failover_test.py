"""Workers that die, hang or leave with a request in each stage, where there are others: the client's stream goes on, and
is token for token, log probability for log probability, what it would have been."""
import os
import threading

import pytest

from baton.v1 import inference_pb2 as pb
from messages import Answer, exactly, tokens
from process import wait_until

# Slow enough for every stage to be seen, and done in seconds.
OPTIONS = {
    "prefill": 2,
    "decode": 2,
    "prefill_flags": ["--chunk-tokens", "8", "--inject-step-delay-ms", "30", "--inject-handoff-delay-ms", "150"],
    "decode_flags": ["--inject-step-delay-ms", "20", "--on-drain", "handoff"],
    "gateway_flags": ["--stall-timeout", "1"],
}
PROMPT = [2] + [1000 + i % 900 for i in range(159)]
NEW = 40


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(**OPTIONS)


def request(n=None):
    """Whatever could go wrong when a sequence is taken up: randomness, penalties, log probabilities."""
    sampling = pb.SamplingParams(temperature=1, seed=7, repetition_penalty=1.3, frequency_penalty=0.5)
    output = pb.OutputParams(logprobs=True, top_logprobs=2)
    return tokens(PROMPT, sampling=sampling, stopping=exactly(NEW), output=output, n=n,
                  cache_salt=os.urandom(8))


def signature(answer):
    return answer.text, answer.ids, [str(logprob) for logprob in answer.logprobs], answer.finished.reason


@pytest.fixture(scope="module")
def undisturbed(fleet):
    answer = Answer(fleet.stream(request()))
    fleet.wait_idle()
    return signature(answer)


class Collector:
    """Reads a stream on a thread of its own, so that a test sees how far it is."""

    def __init__(self, stream):
        self.events = []
        self.error = None
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            for event in self._stream:
                self.events.append(event)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def tokens(self):
        return sum(len(event.delta.token_ids) for event in list(self.events))

    def all_events(self):
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream did not end"
        if self.error is not None:
            raise self.error
        return self.events

    def answer(self):
        return Answer(self.all_events())


def busy(workers, gauge):
    return [worker for worker in workers if worker.running() and worker.value(gauge) > 0]


def reach(fleet, stage, collector):
    """Waits until the request is in the stage; returns (its prefill worker, its decode worker)."""
    decode = wait_until(lambda: busy(fleet.decodes, "baton_state_bytes_used"), "a decode worker has it")[0]
    prefill = wait_until(lambda: busy(fleet.prefills, "baton_requests_running"), "a prefill worker has it")[0]
    if stage == "handoff":
        wait_until(lambda: collector.tokens() >= 1, "the first token")
    if stage == "decode":
        wait_until(lambda: collector.tokens() >= 5, "some tokens")
    return prefill, decode


@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("stage", ["prefill", "handoff", "decode"])
def test_killed(fleet, undisturbed, stage, role):
    collector = Collector(fleet.stream(request()))
    prefill, decode = reach(fleet, stage, collector)
    victim = prefill if role == "prefill" else decode
    victim.kill()
    assert signature(collector.answer()) == undisturbed
    victim.restart()
    fleet.wait_ready(2, 2)
    fleet.wait_idle()
    if stage != "prefill" and role == "decode":
        assert fleet.gateway.value("baton_resumes_total") >= 1


@pytest.mark.parametrize("stage, role", [("prefill", "prefill"), ("handoff", "decode"), ("decode", "decode")])
def test_hung(fleet, undisturbed, stage, role):
    collector = Collector(fleet.stream(request()))
    prefill, decode = reach(fleet, stage, collector)
    victim = prefill if role == "prefill" else decode
    victim.stop()
    try:
        assert signature(collector.answer()) == undisturbed
    finally:
        victim.go_on()
    fleet.wait_ready(2, 2)
    # Whoever woke up has let go of what nobody wants any more.
    fleet.wait_idle()


def test_every_choice_goes_on(fleet):
    expected = choices(list(fleet.stream(request(n=3))))
    fleet.wait_idle()
    collector = Collector(fleet.stream(request(n=3)))
    _, decode = reach(fleet, "decode", collector)
    decode.kill()
    assert choices(collector.all_events()) == expected
    decode.restart()
    fleet.wait_ready(2, 2)
    fleet.wait_idle()


def choices(events):
    ids = {}
    for event in events:
        ids.setdefault(event.delta.choice, []).extend(event.delta.token_ids)
    ends = [(end.choice, end.seed, end.reason, end.usage.completion_tokens, end.cumulative_logprob)
            for end in events[-1].finished.choices]
    assert len(ends) == 3
    return ids, ends


def computed(fleet):
    return sum(worker.value("baton_prompt_tokens_total", source="computed") for worker in fleet.prefills)


def test_a_leaving_worker_hands_its_sequences_over(fleet, undisturbed):
    before = computed(fleet)
    collector = Collector(fleet.stream(request()))
    _, decode = reach(fleet, "decode", collector)
    decode.terminate()
    assert signature(collector.answer()) == undisturbed
    assert decode.wait_exit() == 0
    # The state went from worker to worker: only its next token was computed anew.
    assert computed(fleet) - before == len(PROMPT) + 1
    assert fleet.gateway.value("baton_resumes_total", stage="decode", reason="draining") >= 1
    decode.restart()
    fleet.wait_ready(2, 2)
    fleet.wait_idle()


def test_rolling_restart_under_load(fleet, undisturbed):
    """Every worker is told to drain, and started again, while clients keep asking: nobody notices."""
    over = threading.Event()
    failures = []
    answers = [0]

    def ask():
        while not over.is_set():
            try:
                if signature(Answer(fleet.stream(request()))) != undisturbed:
                    failures.append("another answer")
                answers[0] += 1
            except Exception as error:  # pylint: disable=broad-except
                failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for worker in fleet.workers():
            worker.terminate()
            assert worker.wait_exit() == 0
            worker.restart()
            fleet.wait_ready(2, 2)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert not failures
    assert answers[0] >= len(clients)
    fleet.wait_idle()
