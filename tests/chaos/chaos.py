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
longer requests, and silences longer than keepalives. With --hedge-after late requests are tried twice at once. Exit code
0: nothing lost, repeated, changed, failed or leaked.
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
from faults import Faults
from fleet import Fleet
from process import wait_until
from streams import MODELS, Stream, requests

# What a token costs in real models; without it a tiny one is done before anything can happen to it.
PREFILL_FLAGS = ["--chunk-tokens", "32", "--inject-step-delay-ms", "10"]
DECODE_FLAGS = ["--inject-step-delay-ms", "15", "--grace", "5", "--checkpoint-tokens", "16", "--checkpoint-ttl", "20"]
GATEWAY_FLAGS = ["--stall-timeout", "2"]
DEADLINE_SECONDS = 120
LONG_RUN_SECONDS = 60


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
    print(f"  hedges: {series(fleet.gateway, 'baton_hedges_total')}")
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
    parser.add_argument("--hedge-after", type=float, help="seconds; late requests run on two pairs of workers at once")
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
        hedging = ["--hedge-after", str(options.hedge_after), "--hedge-budget", "100"] if options.hedge_after else []
        fleet = Fleet(directory, models=MODELS, prefill=2, decode=2, prefill_flags=prefill_flags,
                      decode_flags=DECODE_FLAGS, gateway_flags=GATEWAY_FLAGS + hedging, place=place)
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
