#!/usr/bin/env python3
"""First tokens while one of two prefill workers stops for moments, through a gateway that hedges and through one that does
not: two prefill workers and a decode worker behind both, `bench_serve` on one gateway after the other, the same pauses.

    bench/hedging.py BUILD_DIR MODEL_DIR [--rate R] [--hedge-after S] [--rounds N] [flags of the prefill workers]

Prints a row for each round and gateway, medians, and the ratio of the rounds' 99th percentiles.
"""
import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import threading

from fleet_processes import Fleet, metric


class Pauses(threading.Thread):
    """Stops a process now and then, for as long and as often as `seed` says."""

    def __init__(self, process, seed, every, lasting):
        super().__init__()
        self._process, self._chance = process, random.Random(seed)
        self._every, self._lasting = every, lasting
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(self._chance.uniform(*self._every)):
            self._process.send_signal(signal.SIGSTOP)
            self._over.wait(self._chance.uniform(*self._lasting))
            self._process.send_signal(signal.SIGCONT)

    def end(self):
        self._over.set()
        self.join()


def measure(fleet, gateway, victim, options, seed):
    names = {result: f'result="{result}"' for result in ("won", "lost", "failed", "took_over", "cancelled")}
    before = {result: metric(gateway["metrics"], "baton_hedges_total", label) for result, label in names.items()}
    pauses = Pauses(victim, seed, options.every, options.lasting)
    pauses.start()
    try:
        done = subprocess.run([str(fleet.bin_dir / "bench_serve"), "--gateway", gateway["listen"], "--rate",
                               str(options.rate), "--duration", str(options.seconds), "--warmup", "2", "--seed", str(seed),
                               "--prompt-tokens", f"fixed:{options.prompt_tokens}", "--output-tokens", "fixed:8",
                               "--timeout", "60", "--quiet", "--json", "-"], check=True, stdout=subprocess.PIPE)
    finally:
        pauses.end()
    report = json.loads(done.stdout)
    report["hedges"] = {result: metric(gateway["metrics"], "baton_hedges_total", label) - before[result]
                        for result, label in names.items()}
    return report


def row_of(report):
    first = report["seconds"]["time_to_first_token"]
    requests = report["requests"]["completed"]
    return [first["p50"] * 1e3, first["p95"] * 1e3, first["p99"] * 1e3, first["max"] * 1e3, requests,
            report["requests"]["failed"], sum(report["hedges"].values()), report["hedges"]["won"]]


def show(name, row):
    print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in row) + " |", flush=True)


def main():
    pair = lambda text: tuple(map(float, text.split(",")))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("model")
    parser.add_argument("--rate", type=float, default=6, help="requests/s")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--hedge-after", default="0.1")
    parser.add_argument("--hedge-budget", default="5")
    parser.add_argument("--every", type=pair, default=(2, 4), help="seconds between pauses, from,to")
    parser.add_argument("--lasting", type=pair, default=(0.5, 1), help="seconds of a pause, from,to")
    options, prefill_flags = parser.parse_known_args()
    common = ["--model", options.model, "--threads", "1", "--memory", "512MiB"]
    with Fleet(options.build) as fleet:
        # Random prompts have no beginnings in common.
        prefills = [fleet.start("baton-prefill", *common, "--prefix-cache", "off", *prefill_flags) for _ in range(2)]
        victim = fleet.processes[0]
        decode = fleet.start("baton-decode", *common)
        workers = ["--decode-worker", decode["listen"], "--metrics", "127.0.0.1:0"]
        for prefill in prefills:
            workers += ["--prefill-worker", prefill["listen"]]
        gateways = {"off": fleet.start("baton-gateway", *workers),
                    "on": fleet.start("baton-gateway", *workers, "--hedge-after", options.hedge_after, "--hedge-budget",
                                      options.hedge_budget)}
        print("| hedging | TTFT p50, ms | p95 | p99 | max | requests | failed | hedges | won |")
        print("|---" * 9 + "|", flush=True)
        rows = {name: [] for name in gateways}
        for number in range(options.rounds):
            for name in list(gateways)[::1 - 2 * (number % 2)]:
                rows[name].append(row_of(measure(fleet, gateways[name], victim, options, number)))
                show(f"{name}, round {number + 1}", rows[name][-1])
        for name, all_rows in rows.items():
            show(f"{name}, medians", [statistics.median(values) for values in zip(*all_rows)])
        ratios = sorted(on[2] / off[2] for on, off in zip(rows["on"], rows["off"]))
        requests, hedges = (sum(row[column] for row in rows["on"]) for column in (4, 6))
        print(f"p99 on / off: median {statistics.median(ratios):.2f} [{ratios[0]:.2f}-{ratios[-1]:.2f}]; "
              f"hedges / requests: {hedges:.0f} / {requests:.0f} = {hedges / requests:.1%}")


if __name__ == "__main__":
    sys.exit(main())
