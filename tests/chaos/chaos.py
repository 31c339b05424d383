"""A fleet of real processes under load, while its workers are killed, hung, drained, cut off, kept from each other, slowed
down and given cables that lose, delay, double and shuffle what they carry, at random. Half of the requests are for a model
whose states grow with the text, half for a recurrent one; both are copied to other workers as they go. Every stream that
completes is compared with that of an undisturbed run: text, token ids, log probabilities, how it ended. In the end the
survivors must hold not a byte for anyone.

    BATON_BIN_DIR=build/bin PYTHONPATH=build/python python3 tests/chaos/chaos.py --seconds 180

With root there are four hosts with a worker of each model, and one with the gateway (network.py); where TAP devices are
not to be had, their cables are always good. Without root all are on loopback, and there are only kills, hangs and drains.
One worker of each role may be disturbed at a time, so that there is always somewhere to go on: then no request may fail
either. The gateway's cable is bad as well, for clients and workers alike, but not so bad. Runs of a minute or more have
longer requests, and silences longer than keepalives. Exit code 0: nothing lost, repeated, changed, failed or leaked.
"""
import argparse
import collections
from concurrent.futures import ThreadPoolExecutor
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
# pylint: disable=wrong-import-position
import network
from cable import Line
from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT, Fleet
from messages import chat, tokens
from process import wait_until

# What a token costs in real models; without it a tiny one is done before anything can happen to it.
PREFILL_FLAGS = ["--chunk-tokens", "32", "--inject-step-delay-ms", "10"]
DECODE_FLAGS = ["--inject-step-delay-ms", "15", "--grace", "5", "--checkpoint-tokens", "16", "--checkpoint-ttl", "20"]
GATEWAY_FLAGS = ["--stall-timeout", "2"]
MODELS = (GEMMA, RECURRENT)
DEADLINE_SECONDS = 120
# Longer than keepalives and connections' own patience; in short runs nothing else would happen.
LONG_SILENCE_SECONDS = (16, 35)
LONG_SHARE = 0.2
LONG_RUN_SECONDS = 60


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


def refused(stream):
    """At once, and told to try again: at a moment when all workers of a role look unreachable."""
    return stream.error is not None and not stream.tokens and "has no serving" in stream.error.details()


class Load:
    """Clients that ask all the time, and what they got."""

    def __init__(self, fleet, made, expected, clients, seed):
        self.outcomes = collections.Counter()
        self.problems = []
        self.tokens = 0
        self.pauses = []
        self.seconds = []
        self._fleet, self._made, self._expected = fleet, made, expected
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(random.Random(f"{seed}/{i}"),))
                         for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, chance):
        while not self._over.is_set():
            index = chance.randrange(len(self._made))
            call = self._fleet.stream(self._made[index], timeout=DEADLINE_SECONDS)
            if chance.random() < 0.1:
                time.sleep(chance.random())
                call.cancel()
            stream = Stream().read(call)
            with self._lock:
                self._note(index, stream)
            if refused(stream):
                time.sleep(1)

    def _note(self, index, stream):
        self.tokens += stream.tokens
        if stream.error is None:
            same = stream.signature() == self._expected[index]
            self.outcomes["identical" if same else "DIFFERENT"] += 1
            self.pauses.append(stream.longest_pause)
            self.seconds.append(stream.seconds)
            if not same:
                self.problems.append(f"request {index}: another answer than undisturbed\n  {stream.signature()}\n"
                                     f"  {self._expected[index]}")
        elif stream.error.code() == grpc.StatusCode.CANCELLED:
            self.outcomes["cancelled by the client"] += 1
        elif refused(stream):
            self.outcomes["refused, to try again"] += 1
        else:
            self.outcomes["FAILED"] += 1
            self.problems.append(f"request {index} after {stream.tokens} tokens and {stream.seconds:.1f} s: "
                                 f"{stream.error.code().name} {stream.error.details()}")

    def end(self):
        self._over.set()
        for thread in self._threads:
            thread.join()


class Faults:
    """Disturbs the workers of one role, one at a time, or the gateway's cable."""

    def __init__(self, fleet, hosts, role, chance, long):
        """`long`: a single disturbance may take half a minute."""
        self.counts = collections.Counter()
        self.error = None
        self._long = long
        self._fleet, self._hosts, self._role, self._chance = fleet, hosts, role, chance
        self._over = threading.Event()
        self._quiet = threading.Event()
        # A daemon, and not joined before the fleet has gone: processes die with the thread that started them.
        threading.Thread(target=self._run, daemon=True).start()

    def _workers(self):
        return self._fleet.prefills if self._role == "prefill" else self._fleet.decodes

    def _all_serve(self):
        return self._role == "gateway" or self._fleet.serving(self._role) == len(self._workers())

    def _kinds(self):
        cable_kinds = [self._lose, self._delay, self._shuffle]
        if self._role == "gateway":
            return cable_kinds
        kinds = [self._kill, self._hang, self._drain]
        if self._hosts is not None:
            kinds += [self._cut, self._separate, self._slow]
            if self._hosts.has_cables:
                kinds += cable_kinds + ([self._silence] if self._long else [])
        return kinds

    def _run(self):
        kinds = self._kinds()
        left = []
        try:
            while not self._over.wait(self._chance.uniform(0.3, 2)):
                # Whoever was disturbed last is back: there is always one to go on with.
                wait_until(self._all_serve, f"all {self._role} workers serve", timeout=60)
                number = 0 if self._role == "gateway" else self._chance.randrange(len(self._workers()))
                # All of them before any comes again.
                left = left or self._chance.sample(kinds, len(kinds))
                kind = left.pop()
                kind(number)
                self.counts[kind.__name__[1:]] += 1
        except Exception as error:  # pylint: disable=broad-except
            self.error = error
        self._quiet.set()
        threading.Event().wait()

    def _kill(self, number):
        worker = self._workers()[number]
        worker.kill()
        time.sleep(self._chance.uniform(0, 2))
        worker.restart()

    def _hang(self, number):
        worker = self._workers()[number]
        worker.stop()
        try:
            time.sleep(self._some_seconds())
        finally:
            worker.go_on()

    def _drain(self, number):
        worker = self._workers()[number]
        worker.terminate()
        worker.restart()

    def _some_seconds(self):
        """Mostly hardly longer than the stall timeout."""
        if self._long and self._chance.random() < LONG_SHARE:
            return self._chance.uniform(*LONG_SILENCE_SECONDS)
        return self._chance.uniform(0.5, 7)

    def _host(self, number):
        """Each has a worker of every model."""
        return f"{self._role[0]}{number % 2}"

    def _while_disturbed(self, host, seconds):
        try:
            time.sleep(seconds)
        finally:
            self._hosts.heal(host)

    def _cut(self, number):
        host = self._host(number)
        self._hosts.cut(host)
        self._while_disturbed(host, self._some_seconds())

    def _separate(self, number):
        host = self._host(number)
        other = f"{'d' if self._role == 'prefill' else 'p'}{self._chance.randrange(2)}"
        self._hosts.separate(host, other)
        try:
            time.sleep(self._some_seconds())
        finally:
            self._hosts.join(host, other)

    def _slow(self, number):
        host = self._host(number)
        self._hosts.slow(host)
        self._while_disturbed(host, self._chance.uniform(1, 7))

    def _with_bad_cable(self, number, lines, seconds):
        """`lines`: for what goes to the host, and what comes from it."""
        host = self._host(number)
        self._hosts.disturb(host, *lines)
        self._while_disturbed(host, seconds)

    def _directions(self, make):
        """A bad line in both directions or in one."""
        which = self._chance.choice(["both", "to", "from"])
        return [make() if which in ("both", way) else Line() for way in ("to", "from")]

    def _most(self, limit):
        """Everybody suffers from the gateway's cable."""
        return limit / 4 if self._role == "gateway" else limit

    def _lose(self, number):
        lines = self._directions(lambda: Line(loss=self._most(0.2) * self._chance.uniform(0.1, 1)))
        self._with_bad_cable(number, lines, self._chance.uniform(2, 10))

    def _delay(self, number):
        def make():
            delay = self._most(0.2) * self._chance.uniform(0.1, 1)
            return Line(delay=delay, jitter=delay * self._chance.random())
        self._with_bad_cable(number, self._directions(make), self._chance.uniform(2, 10))

    def _shuffle(self, number):
        lines = self._directions(lambda: Line(reorder=self._chance.uniform(0.05, 0.3),
                                              reorder_delay=self._most(0.1) * self._chance.uniform(0.01, 1),
                                              duplicate=self._chance.uniform(0.05, 0.3)))
        self._with_bad_cable(number, lines, self._chance.uniform(2, 10))

    def _silence(self, number):
        self._with_bad_cable(number, self._directions(lambda: Line(loss=1)), self._chance.uniform(*LONG_SILENCE_SECONDS))

    def end(self):
        """No more faults from now on."""
        self._over.set()
        self._quiet.wait()


def series(gateway, name):
    return {" ".join(value if key == "model" else f"{key}={value}" for key, value in labels if key != "role"): int(number)
            for (sample, labels), number in gateway.metrics().items() if sample == name and number > 0}


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0


def play(fleet, hosts, options):
    chance = random.Random(options.seed)
    long = options.seconds >= LONG_RUN_SECONDS
    made = requests(options.requests, chance, long)
    with ThreadPoolExecutor(options.clients) as clients:
        expected = list(clients.map(lambda request: Stream().read(fleet.stream(request)), made))
    for stream in expected:
        if stream.error is not None:
            raise stream.error
    expected = [stream.signature() for stream in expected]
    fleet.wait_idle()

    load = Load(fleet, made, expected, options.clients, options.seed)
    roles = ["prefill", "decode"] + (["gateway"] if hosts is not None and hosts.has_cables else [])
    faults = {role: Faults(fleet, hosts, role, random.Random(f"{options.seed}/{role}"), long) for role in roles}
    time.sleep(options.seconds)
    for injector in faults.values():
        injector.end()
    load.end()
    problems = load.problems + [repr(injector.error) for injector in faults.values() if injector.error]
    try:
        for role in ("prefill", "decode"):
            wait_until(lambda role=role: fleet.serving(role) == 2 * len(MODELS), f"all {role} workers serve again",
                       timeout=60)
        fleet.wait_idle(60)
    except AssertionError as error:
        problems.append(str(error))
    report(fleet, hosts, options, load, faults, problems)
    return not problems


def report(fleet, hosts, options, load, faults, problems):
    print(f"chaos: {options.seconds} s, seed {options.seed}, {options.clients} clients, "
          f"{'on five hosts' if hosts else 'all on loopback'}")
    if hosts is not None:
        print(f"  frames that cables carried: {hosts.frames()}" if hosts.has_cables else
              f"  no loss and no delays, for want of cables: {hosts.no_cables}")
    for role, injector in faults.items():
        where = "the gateway" if role == "gateway" else f"{role} workers"
        print(f"  faults at {where}: {sum(injector.counts.values())} {dict(injector.counts)}")
    print(f"  requests: {sum(load.outcomes.values())} {dict(load.outcomes)}, {load.tokens} tokens")
    print(f"  retries before the first token: {series(fleet.gateway, 'baton_retries_total')}")
    print(f"  resumed after it: {series(fleet.gateway, 'baton_resumes_total')}")
    print(f"  resumed from: {series(fleet.gateway, 'baton_resumed_from_total')}")
    print(f"  longest pause within a stream: p50 {percentile(load.pauses, 0.5):.2f} s, "
          f"p99 {percentile(load.pauses, 0.99):.2f} s, max {max(load.pauses, default=0):.2f} s")
    print(f"  whole request: p50 {percentile(load.seconds, 0.5):.2f} s, p99 {percentile(load.seconds, 0.99):.2f} s")
    print("  state memory held in the end: " + ("see below" if problems else "none"))
    for problem in problems[:20]:
        print(f"PROBLEM {problem}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--requests", type=int, default=24, help="different ones")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces")
    parser.add_argument("--logs", help="keep the processes' logs in this directory")
    options = parser.parse_args()
    directory = options.logs or tempfile.mkdtemp(prefix="baton-chaos-")
    os.makedirs(directory, exist_ok=True)
    hosts = None
    fleet = None
    try:
        if not options.loopback and network.available():
            hosts = network.Network(["p0", "p1", "d0", "d1", "g0"], seed=options.seed)
        place = (lambda role, number: hosts.place(f"{role[0]}{number}")) if hosts else (lambda role, number: {})
        prefill_flags = PREFILL_FLAGS + (["--handoff-transport", "grpc"] if hosts else [])
        fleet = Fleet(directory, models=MODELS, prefill=2, decode=2, prefill_flags=prefill_flags,
                      decode_flags=DECODE_FLAGS, gateway_flags=GATEWAY_FLAGS, place=place)
        good = play(fleet, hosts, options)
        if not good:
            print(fleet.logs(), file=sys.stderr)
        return 0 if good else 1
    finally:
        if fleet is not None:
            fleet.close()
        if hosts is not None:
            hosts.close()
        if not options.logs:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
