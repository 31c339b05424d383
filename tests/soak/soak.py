"""A fleet of real processes under everyday load for a long time: streams short and long, some given up in the middle,
some past their deadline, several samples, conversations that go on, scores, bad requests, clients that come and go. In
the end every answer must have been the same each time, nothing may be held for anyone, and no process may have grown:
its own memory (anonymous and shared), its threads and its open files.

    BATON_BIN_DIR=build/bin PYTHONPATH=build/python python3 tests/soak/soak.py --minutes 30 --csv soak.csv

The first third of the time is warming up: arenas fill, caches reach their bounds. A process has grown when its median
in the last third is above that of the second by more than --allowed-mib. Exit code 0: all well.
"""
import argparse
import collections
import csv
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time

import grpc

for directory in ("e2e", "chaos"):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / directory))
# pylint: disable=wrong-import-position
from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from fleet import GEMMA, RECURRENT, Fleet
from messages import chat, exactly
from streams import Stream, requests

# Small, so that they are full early on.
PREFILL_FLAGS = ["--prefix-cache", "8MiB", "--trace-history", "100"]
DECODE_FLAGS = ["--session-ttl", "5", "--trace-history", "100"]
GATEWAY_FLAGS = ["--trace-history", "100"]
SAMPLES = 120
Sample = collections.namedtuple("Sample", ["seconds", "memory", "threads", "files"])


class Usage:
    """What each process takes, sampled over time."""

    def __init__(self, fleet):
        self._start = time.monotonic()
        self.samples = {self._name(fleet, process): [] for process in fleet.processes()}
        self._pids = {self._name(fleet, process): process.pid for process in fleet.processes()}

    @staticmethod
    def _name(fleet, process):
        group = {"prefill": fleet.prefills, "decode": fleet.decodes}.get(process.role)
        return f"{process.role}-{group.index(process)}" if group else process.role

    def take(self):
        for name, pid in self._pids.items():
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            # Without the pages of checkpoints and programs, which are the kernel's to keep or drop.
            memory = sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem")) / 1024
            self.samples[name].append(Sample(time.monotonic() - self._start, memory, int(fields["Threads"]),
                                             len(os.listdir(f"/proc/{pid}/fd"))))

    @staticmethod
    def thirds(samples):
        """Medians of the second and of the last third, and the most there ever was."""
        third = len(samples) // 3
        middle, last = samples[third:2 * third], samples[2 * third:]
        return {field: (statistics.median(getattr(sample, field) for sample in middle),
                        statistics.median(getattr(sample, field) for sample in last),
                        max(getattr(sample, field) for sample in samples)) for field in ("memory", "threads", "files")}


class Client(threading.Thread):
    """Asks for one thing after another."""

    def __init__(self, load, seed):
        super().__init__()
        self._load = load
        self._chance = random.Random(seed)
        self._channel = load.fleet.new_channel()
        self._handle = None

    def run(self):
        kinds = [self._stream] * 8 + [self._cancel, self._deadline, self._converse, self._converse, self._score, self._bad,
                                      self._come_again]
        while not self._load.over.is_set():
            kind = self._chance.choice(kinds)
            name = kind.__name__[1:]
            try:
                self._load.count(name, kind())
            except Exception as error:  # pylint: disable=broad-except
                self._load.problem(f"{name}: {error!r}")
            time.sleep(self._chance.uniform(0, self._load.pause))
        self._channel.close()

    def _inference(self):
        return inference_pb2_grpc.InferenceStub(self._channel)

    def _pick(self):
        index = self._chance.randrange(len(self._load.made))
        return index, self._load.made[index]

    def _stream(self):
        index, request = self._pick()
        stream = Stream().read(self._inference().GenerateStream(request, timeout=60))
        if stream.error is not None:
            raise stream.error
        if not self._load.same(index, stream):
            self._load.problem(f"request {index}: another answer than the first time")
        return stream.tokens

    def _cancel(self):
        call = self._inference().GenerateStream(self._pick()[1], timeout=60)
        time.sleep(self._chance.random() / 20)
        call.cancel()
        return Stream().read(call).tokens

    def _deadline(self):
        stream = Stream().read(self._inference().GenerateStream(self._pick()[1], timeout=self._chance.random() / 20))
        if stream.error is not None and stream.error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise stream.error
        return stream.tokens

    def _converse(self):
        request = chat("And then?", RECURRENT, keep_state=True, stopping=exactly(12))
        if self._handle:
            request.session = self._handle
        try:
            answer = self._inference().Generate(request, timeout=60)
        except grpc.RpcError as error:
            self._handle = None
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return 0
        self._handle = answer.finished.session.handle or None
        # Some are left alone, to expire.
        if self._chance.random() < 0.2:
            self._handle = None
        return 12

    def _score(self):
        request = pb.ScoreRequest(model=GEMMA, text=pb.TextPrompt(text="The capital of France is"),
                                  continuations=[pb.Continuation(text=text) for text in (" Paris", " London")])
        scores = self._inference().Score(request, timeout=60).scores
        if not scores[0].logprob > scores[1].logprob:
            self._load.problem("Score: Paris is not the likelier one")
        return len(scores)

    def _bad(self):
        try:
            self._inference().Generate(pb.GenerateRequest(model="no-such-model", text=pb.TextPrompt(text="x")), timeout=60)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return 0
        raise AssertionError("a model that does not exist answered")

    def _come_again(self):
        self._channel.close()
        self._channel = self._load.fleet.new_channel()
        return 0


class Load:
    def __init__(self, fleet, options):
        chance = random.Random(options.seed)
        self.fleet = fleet
        self.pause = options.pause
        self.made = requests(options.requests, chance, long=False)
        self.outcomes = collections.Counter()
        self.tokens = 0
        self.problems = []
        self.over = threading.Event()
        self._answers = {}
        self._lock = threading.Lock()
        self._clients = [Client(self, f"{options.seed}/{i}") for i in range(options.clients)]
        for client in self._clients:
            client.start()

    def count(self, name, tokens):
        with self._lock:
            self.outcomes[name] += 1
            self.tokens += tokens

    def problem(self, text):
        with self._lock:
            self.problems.append(text)

    def same(self, index, stream):
        with self._lock:
            return self._answers.setdefault(index, stream.signature()) == stream.signature()

    def end(self):
        self.over.set()
        for client in self._clients:
            client.join()


def report(options, load, usage):
    problems = load.problems[:]
    print(f"soak: {options.minutes:g} minutes, {options.clients} clients, {sum(load.outcomes.values())} requests "
          f"{dict(load.outcomes)}, {load.tokens} tokens")
    print(f"{'':12} {'memory, MiB: second third':>26} {'last':>8} {'most':>8}   threads      files")
    for name, samples in usage.samples.items():
        thirds = Usage.thirds(samples)
        memory, threads, files = thirds["memory"], thirds["threads"], thirds["files"]
        print(f"{name:12} {memory[0]:26.1f} {memory[1]:8.1f} {memory[2]:8.1f}   {threads[0]:3g} {threads[1]:3g}    "
              f"{files[0]:4g} {files[1]:4g}")
        if memory[1] - memory[0] > options.allowed_mib:
            problems.append(f"{name} has grown by {memory[1] - memory[0]:.1f} MiB")
        if threads[1] > threads[0] + 4:
            problems.append(f"{name} has {threads[1]:g} threads instead of {threads[0]:g}")
        if files[1] > files[0] + 16:
            problems.append(f"{name} has {files[1]:g} open files instead of {files[0]:g}")
    for problem in problems[:20]:
        print(f"PROBLEM {problem}")
    return not problems


def write_csv(path, usage):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["process", *Sample._fields])
        for name, samples in usage.samples.items():
            writer.writerows([name, *sample] for sample in samples)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0, help="most seconds between a client's requests")
    parser.add_argument("--requests", type=int, default=40, help="different ones")
    parser.add_argument("--allowed-mib", type=float, default=8, help="growth of a process that is not yet a leak")
    parser.add_argument("--csv", help="write all samples to this file")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="baton-soak-")
    fleet = None
    try:
        fleet = Fleet(directory, models=[GEMMA, RECURRENT], prefill_flags=PREFILL_FLAGS, decode_flags=DECODE_FLAGS,
                      gateway_flags=GATEWAY_FLAGS)
        usage = Usage(fleet)
        load = Load(fleet, options)
        try:
            for _ in range(SAMPLES):
                time.sleep(options.minutes * 60 / SAMPLES)
                usage.take()
        finally:
            load.end()
        try:
            fleet.wait_idle(30)
        except AssertionError as error:
            load.problems.append(str(error))
        good = report(options, load, usage)
        if options.csv:
            write_csv(options.csv, usage)
        if not good:
            print(fleet.logs(), file=sys.stderr)
        return 0 if good else 1
    finally:
        if fleet is not None:
            fleet.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
