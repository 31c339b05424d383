#!/usr/bin/env python3
"""What copies of recurrent states (--checkpoint-tokens) save when a decode worker is killed, and what they cost.

    PYTHONPATH=BUILD_DIR/python bench/checkpoints.py BUILD_DIR [--prompt-tokens N] [--rounds N] [--pace-rounds N]

Makes a RecurrentGemma shape of 94 million parameters whose state is as large as that of the 2B model (16 MiB), and for each
interval, with and without the prefill worker's prefix cache, a fleet of one prefill and two decode workers, all with a thread
of their own. In turn:

- one stream with a long prompt; once it has some tokens its decode worker is killed, and the longest gap between two of its
  tokens is what that cost its client;
- four streams at a time, undisturbed, whose windows are full: the gaps between their tokens.

Prints both as tables, medians of the rounds.
"""
import argparse
import json
import pathlib
import random
import statistics
import subprocess
import tempfile
import threading
import time

import grpc

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from fleet_processes import Fleet, metric

INTERVALS = [0, 64, 256]
VOCABULARY = 2048
PACE_PROMPT = 2200
SHAPE = dict(hidden_size=512, intermediate_size=3072, num_hidden_layers=24, num_attention_heads=2, head_dim=256, lru_width=512,
             attention_window_size=2048, vocab_size=VOCABULARY)


def make_model(bin_dir, directory):
    tiny = pathlib.Path(__file__).resolve().parents[1] / "deploy" / "models" / "tiny-recurrentgemma" / "config.json"
    config = directory / "config.json"
    config.write_text(json.dumps({**json.loads(tiny.read_text()), **SHAPE}))
    subprocess.run([bin_dir / "baton", "synth", "--config", config, "--out", directory / "shape"], check=True,
                   stdout=subprocess.DEVNULL)
    return str(directory / "shape")


class Setup:
    def __init__(self, build, model, interval, cached):
        self.interval, self.cached = interval, cached
        self.fleet = Fleet(build)
        self.common = ["--model", model, "--threads", "1", "--memory", "1GiB", "--metrics", "127.0.0.1:0"]
        cache = [] if cached else ["--prefix-cache", "off"]
        prefill = self.fleet.start("baton-prefill", *self.common, *cache)
        self.flags = ["--checkpoint-tokens", str(interval)]
        self.decodes = [self.start_decode() for _ in range(2)]
        workers = ["--prefill-worker", prefill["listen"]]
        for fields, _ in self.decodes:
            workers += ["--decode-worker", fields["listen"]]
        self.gateway = self.fleet.start("baton-gateway", *workers, "--metrics", "127.0.0.1:0")
        self.stub = inference_pb2_grpc.InferenceStub(grpc.insecure_channel(self.gateway["listen"]))
        self.pauses, self.gaps, self.sources = [], [], {}

    def start_decode(self, **where):
        return self.fleet.start("baton-decode", *self.common, *self.flags, **where), self.fleet.processes[-1]

    def stream(self, prompt_tokens, new_tokens, chance):
        prompt = [2] + [chance.randrange(300, VOCABULARY) for _ in range(prompt_tokens - 1)]
        return self.stub.GenerateStream(pb.GenerateRequest(
            tokens=pb.TokenPrompt(ids=prompt), sampling=pb.SamplingParams(temperature=1, seed=chance.randrange(1 << 60)),
            stopping=pb.StoppingParams(max_new_tokens=new_tokens, ignore_eos=True)))

    def wait_serving(self):
        deadline = time.monotonic() + 60
        while metric(self.gateway["metrics"], "baton_workers", 'state="serving"') < 3:
            assert time.monotonic() < deadline, "workers do not serve"
            time.sleep(0.05)

    def kill_one(self, prompt_tokens, tokens, chance):
        self.wait_serving()
        call = self.stream(prompt_tokens, tokens + 20, chance)
        seen, last, pause = 0, 0, 0
        victim = None
        for event in call:
            if not event.delta.token_ids:
                continue
            now = time.monotonic()
            if victim is not None:
                pause = max(pause, now - last)
            last = now
            seen += len(event.delta.token_ids)
            if seen >= tokens and victim is None:
                victim = next(i for i, (fields, _) in enumerate(self.decodes)
                              if metric(fields["metrics"], "baton_requests_running") > 0)
                self.decodes[victim][1].kill()
                last = time.monotonic()
        self.pauses.append(pause)
        fields, process = self.decodes[victim]
        process.wait()
        self.decodes[victim] = self.start_decode(listen=fields["listen"])

    def pace(self, new_tokens, seed):
        self.wait_serving()

        def read(call, gaps):
            last = None
            for event in call:
                if not event.delta.token_ids:
                    continue
                now = time.monotonic()
                if last is not None:
                    gaps.append((now - last) / len(event.delta.token_ids))
                last = now
        gaps = []
        threads = [threading.Thread(target=read, args=(self.stream(PACE_PROMPT, new_tokens, random.Random(f"{seed}/{i}")), gaps))
                   for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gaps.sort()
        self.gaps.append((statistics.median(gaps), gaps[int(0.99 * len(gaps))], statistics.fmean(gaps)))

    def sum_of_decodes(self, name, label=""):
        return sum(metric(fields["metrics"], name, label) for fields, _ in self.decodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=300, help="of output before the worker is killed")
    parser.add_argument("--pace-tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pace-rounds", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = make_model(pathlib.Path(options.build) / "bin", pathlib.Path(directory))
        setups = []
        try:
            for cached in (False, True):
                setups += [Setup(options.build, model, interval, cached) for interval in INTERVALS]
            for number in range(options.rounds):
                for setup in setups:
                    # Some way after a copy.
                    setup.kill_one(options.prompt_tokens, options.tokens + 13 * number, random.Random(number))
            for number in range(options.pace_rounds):
                for setup in setups[:len(INTERVALS)]:
                    setup.pace(options.pace_tokens, number)
            print("| interval | prefix cache | pause, median (each) | went on from |")
            print("|---|---|---|---|")
            for setup in setups:
                sources = {name: int(metric(setup.gateway["metrics"], "baton_resumed_from_total", f'source="{name}"'))
                           for name in ("checkpoint", "recompute")}
                each = ", ".join(f"{pause:.2f}" for pause in setup.pauses)
                print(f"| {setup.interval or 'off'} | {'on' if setup.cached else 'off'} | "
                      f"{statistics.median(setup.pauses):.2f} s ({each}) | {sources} |")
            print("\n| interval | gap p50 | p99 | mean | copies | bytes of each |")
            print("|---|---|---|---|---|---|")
            for setup in setups[:len(INTERVALS)]:
                p50, p99, mean = (1000 * statistics.median(column) for column in zip(*setup.gaps))
                copies = setup.sum_of_decodes("baton_checkpoints_sent_total", 'result="committed"')
                size = setup.sum_of_decodes("baton_checkpoint_sent_bytes_total") / max(copies, 1) / (1 << 20)
                print(f"| {setup.interval or 'off'} | {p50:.1f} ms | {p99:.1f} ms | {mean:.1f} ms | {copies:.0f} | "
                      f"{size:.1f} MiB |")
        finally:
            for setup in setups:
                setup.fleet.__exit__()


if __name__ == "__main__":
    main()
