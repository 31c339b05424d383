"""Decode workers that copy the states of their sequences to each other: a request whose worker is killed goes on from the
last copy, token for token, log probability for log probability what it would have been, and no copy outlives its use."""
import json
import os
import shutil

import pytest

from baton.v1 import inference_pb2 as pb
from failover_test import Collector, choices, signature
from fleet import GEMMA, MODELS, RECURRENT
from messages import Answer, exactly, tokens
from process import Process, wait_until

# Longer than the model's window, so that it slides.
PROMPT = [2] + [1000 + i % 900 for i in range(119)]
NEW = 60
EVERY = 7
FLAGS = ["--checkpoint-tokens", str(EVERY), "--checkpoint-ttl", "3", "--inject-step-delay-ms", "20"]


@pytest.fixture(scope="module", params=["local", "prefill"])
def fleet(launch, request):
    """The tokens since the copy are computed by whoever has it, or by a prefill worker that fetches it."""
    local = "32" if request.param == "local" else "0"
    return launch(models=[RECURRENT], prefill=1, decode=2, decode_flags=FLAGS,
                  gateway_flags=["--stall-timeout", "1", "--local-prefill-tokens", local])


def ask(**fields):
    sampling = pb.SamplingParams(temperature=1, seed=7, repetition_penalty=1.3, frequency_penalty=0.5)
    output = pb.OutputParams(logprobs=True, top_logprobs=2)
    return tokens(PROMPT, model=RECURRENT, sampling=sampling, stopping=exactly(NEW), output=output,
                  cache_salt=os.urandom(8), **fields)


def held(fleet):
    return sum(worker.value("baton_checkpoints") for worker in fleet.decodes if worker.running())


def sent(fleet, result):
    return sum(worker.value("baton_checkpoints_sent_total", result=result) for worker in fleet.decodes
               if worker.running())


def busy_one(fleet):
    return next(worker for worker in fleet.decodes if worker.value("baton_requests_running") > 0)


def kill_the_busy_one(fleet, collector, count):
    """In mid-stream, once copies have been made of `count` sequences."""
    wait_until(lambda: collector.tokens() >= 3 * EVERY * count and held(fleet) == count, "there are copies")
    victim = busy_one(fleet)
    victim.kill()
    return victim


def resumed(fleet, source):
    return fleet.gateway.value("baton_resumed_from_total", source=source)


def test_a_killed_workers_request_goes_on_from_the_copy(fleet):
    undisturbed = signature(Answer(fleet.stream(ask())))
    # What was copied on the way is gone with the end of the stream, on both sides.
    fleet.wait_idle()
    assert held(fleet) == 0
    assert sent(fleet, "committed") >= 1 and sent(fleet, "failed") == 0
    before = resumed(fleet, "checkpoint")
    collector = Collector(fleet.stream(ask()))
    victim = kill_the_busy_one(fleet, collector, 1)
    assert signature(collector.answer()) == undisturbed
    assert resumed(fleet, "checkpoint") == before + 1
    assert resumed(fleet, "recompute") == 0
    victim.restart()
    fleet.wait_ready(1, 2)
    fleet.wait_idle()


def test_every_choice_has_a_copy_of_its_own(fleet):
    expected = choices(list(fleet.stream(ask(n=3))))
    fleet.wait_idle()
    before = resumed(fleet, "checkpoint")
    collector = Collector(fleet.stream(ask(n=3)))
    victim = kill_the_busy_one(fleet, collector, 3)
    assert choices(collector.all_events()) == expected
    assert resumed(fleet, "checkpoint") == before + 3
    victim.restart()
    fleet.wait_ready(1, 2)
    fleet.wait_idle()


def test_copies_that_nobody_comes_for_go(fleet):
    """A client that goes away takes its copies along; those of a worker that died with it expire."""
    call = fleet.stream(ask())
    collector = Collector(call)
    wait_until(lambda: held(fleet) == 1, "there is a copy")
    call.cancel()
    fleet.wait_idle()
    assert held(fleet) == 0

    call = fleet.stream(ask())
    collector = Collector(call)
    wait_until(lambda: collector.tokens() >= 2 * EVERY and held(fleet) == 1, "there is a copy")
    victim = busy_one(fleet)
    # Too late for the worker to say anything, too early for the gateway to go on.
    victim.stop()
    call.cancel()
    victim.kill()
    survivor = next(worker for worker in fleet.decodes if worker is not victim)
    wait_until(lambda: survivor.value("baton_checkpoints") == 0, "the copy has expired", timeout=30)
    assert survivor.value("baton_checkpoint_events_total", event="expired") >= 1
    victim.restart()
    fleet.wait_ready(1, 2)
    fleet.wait_idle()


def test_states_that_grow_are_not_copied(tmp_path):
    model = shutil.copytree(MODELS / GEMMA, tmp_path / "long")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1000000}))
    worker = Process("decode", ["--model", str(model), "--memory", "64MiB", "--checkpoint-tokens", "64"], tmp_path)
    try:
        assert worker.wait_exit() == 1
        assert "--checkpoint-tokens 64: the state of a sequence of" in worker.log_tail()
    finally:
        worker.close()
