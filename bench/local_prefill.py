#!/usr/bin/env python3
"""Short prompts computed by the decode worker beside its streams, against a prefill worker and a handoff: one pair of
workers with a core each behind two gateways, and `bench_serve --interference` on both for each length, in turn.

    bench/local_prefill.py BUILD_DIR MODEL_DIR [--lengths 8,16,...] [--rounds N] [--chunk N] [more flags of the workers]

Prints a table: the time to the first token of prompts that arrive one after the other, and the gaps between the tokens of
the streams meanwhile; the median of the rounds.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

processes = []


def start(program, *flags):
    process = subprocess.Popen([str(program), "--listen", "127.0.0.1:0", *flags], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    processes.append(process)
    line = process.stdout.readline().decode()
    if not line.startswith("READY "):
        sys.exit(f"{program} did not start; try it by hand: {program} {' '.join(flags)}")
    return dict(field.split("=", 1) for field in line.split()[1:])["listen"]


def measure(bench, setups, length, streams, seconds):
    output = subprocess.run([str(bench), "--interference", ",".join(f"{name}={gateway}" for name, gateway in setups),
                             "--streams", str(streams), "--long-prompt-tokens", str(length), "--phase-seconds",
                             str(seconds), "--quiet", "--json", "-"], check=True, stdout=subprocess.PIPE).stdout
    return {setup["name"]: setup for setup in json.loads(output)["setups"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("model")
    parser.add_argument("--lengths", default="8,16,32,64,128,256,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", default="32", help="--local-prefill-chunk of the decode worker")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    options, worker_flags = parser.parse_known_args()
    bin_dir = pathlib.Path(options.build) / "bin"
    common = ["--model", options.model, "--threads", "1", "--memory", "2GiB", *worker_flags]
    try:
        # Random prompts have no beginnings in common; the cache would only take time.
        prefill = start(bin_dir / "baton-prefill", *common, "--cpus", "0", "--prefix-cache", "off")
        decode = start(bin_dir / "baton-decode", *common, "--cpus", "1", "--local-prefill-chunk", options.chunk)
        workers = ["--prefill-worker", prefill, "--decode-worker", decode]
        setups = [(name, start(bin_dir / "baton-gateway", *workers, "--local-prefill-tokens", limit))
                  for name, limit in (("local", "1000000"), ("separated", "0"))]
        print("| prompt | first token: local | separated | ITL p50 quiet | local | separated | ITL p99 quiet | local | separated "
              "| prompts/s: local | separated |")
        print("|---" * 11 + "|", flush=True)
        for length in options.lengths.split(","):
            rounds = [measure(bin_dir / "bench_serve", setups[::1 - 2 * (i % 2)], length, options.streams, options.seconds)
                      for i in range(options.rounds)]

            def median(name, part, figure, scale=1e3):
                value = statistics.median(r[name][part][figure] if part else r[name][figure] for r in rounds)
                return f"{value * scale:.1f}"
            quiet = {figure: min(float(median(name, "quiet_seconds", figure)) for name, _ in setups) for figure in ("p50", "p99")}
            row = [length, *(median(name, "time_to_first_token_seconds", "p50") for name, _ in setups)]
            for figure in ("p50", "p99"):
                row += [f"{quiet[figure]:.1f}", *(median(name, "loaded_seconds", figure) for name, _ in setups)]
            row += [median(name, None, "prompts_per_second", 1) for name, _ in setups]
            print("| " + " | ".join(row) + " |", flush=True)
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
