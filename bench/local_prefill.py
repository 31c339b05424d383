#!/usr/bin/env python3
"""Short prompts where the gateway may have the decode worker compute them, and where it may not: one pair of workers with
a core each behind two gateways, and `bench_serve --interference` on both for each length, in turn.

    bench/local_prefill.py BUILD_DIR MODEL_DIR [--lengths 8,16,...] [--streams N] [--long-prompts N] [flags of the workers]

With --long-prompts, prompts of 2048 tokens keep the prefill worker busy meanwhile, N of them at a time. Prints a table:
the time to the first token of short prompts that arrive one after the other, the gaps between the tokens of the streams
meanwhile, in milliseconds, and how many of the prompts the decode worker computed; the median of the rounds.
"""
import argparse
import json
import statistics
import subprocess
import sys

from fleet_processes import Fleet, metric


def measure(bench, setups, length, streams, seconds):
    output = subprocess.run([str(bench), "--interference", ",".join(f"{name}={gateway}" for name, gateway in setups),
                             "--streams", str(streams), "--long-prompt-tokens", str(length), "--phase-seconds",
                             str(seconds), "--quiet", "--json", "-"], check=True, stdout=subprocess.PIPE).stdout
    return {setup["name"]: setup for setup in json.loads(output)["setups"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("model")
    parser.add_argument("--lengths", default="8,16,32,64,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long-prompts", type=int, default=0)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    options, worker_flags = parser.parse_known_args()
    common = ["--model", options.model, "--threads", "1", "--memory", "2GiB", *worker_flags]
    with Fleet(options.build) as fleet:
        # Random prompts have no beginnings in common; the cache would only take time.
        prefill = fleet.start("baton-prefill", *common, "--cpus", "0", "--prefix-cache", "off")
        decode = fleet.start("baton-decode", *common, "--cpus", "1", "--metrics", "127.0.0.1:0")
        workers = ["--prefill-worker", prefill["listen"], "--decode-worker", decode["listen"]]
        setups = [(name, fleet.start("baton-gateway", *workers, "--local-prefill-tokens", limit)["listen"])
                  for name, limit in (("may", "1000000"), ("may not", "0"))]
        if options.long_prompts:
            # More arrive than can be computed.
            fleet.processes.append(subprocess.Popen(
                [str(fleet.bin_dir / "bench_serve"), "--gateway", setups[1][1], "--rate", "50", "--duration", "3600", "--timeout",
                 "86400", "--concurrency", str(options.long_prompts), "--prompt-tokens", "fixed:2048", "--output-tokens",
                 "fixed:1", "--quiet"],
                stdout=subprocess.DEVNULL))
        print("| prompt | first token: may | may not | ITL p50 quiet | may | may not | ITL p99 quiet | may | may not "
              "| prompts/s: may | may not | computed by decode |")
        print("|---" * 12 + "|", flush=True)
        for length in options.lengths.split(","):
            before = metric(decode["metrics"], "baton_local_prefills_total")
            rounds = [measure(fleet.bin_dir / "bench_serve", setups[::1 - 2 * (i % 2)], length, options.streams, options.seconds)
                      for i in range(options.rounds)]

            def median(name, part, figure, scale=1e3):
                value = statistics.median(r[name][part][figure] if part else r[name][figure] for r in rounds)
                return f"{value * scale:.1f}"
            quiet = {figure: min(float(median(name, "quiet_seconds", figure)) for name, _ in setups) for figure in ("p50", "p99")}
            row = [length, *(median(name, "time_to_first_token_seconds", "p50") for name, _ in setups)]
            for figure in ("p50", "p99"):
                row += [f"{quiet[figure]:.1f}", *(median(name, "loaded_seconds", figure) for name, _ in setups)]
            row += [median(name, None, "prompts_per_second", 1) for name, _ in setups]
            # The streams' own prompts are among them.
            row.append(f"{metric(decode['metrics'], 'baton_local_prefills_total') - before:.0f}")
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
