#!/usr/bin/env python3
"""Two fleets of one model on two cores, and `bench_serve --interference` on both: separated workers with a core each, and
the same two workers on one core.

    bench/interference.py BUILD_DIR MODEL_DIR OUT_DIR [more flags of bench_serve]

Writes OUT_DIR/interference.json and .svg. bench/interference.svg is one of these.
"""
import pathlib
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


def fleet(bin_dir, model, prefill_cpu, decode_cpu):
    common = ["--model", model, "--threads", "1", "--memory", "2GiB"]
    prefill = start(bin_dir / "baton-prefill", *common, "--cpus", prefill_cpu)
    decode = start(bin_dir / "baton-decode", *common, "--cpus", decode_cpu)
    return start(bin_dir / "baton-gateway", "--prefill-worker", prefill, "--decode-worker", decode)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    bin_dir, model, out = pathlib.Path(sys.argv[1]) / "bin", sys.argv[2], pathlib.Path(sys.argv[3])
    try:
        separated = fleet(bin_dir, model, "0", "1")
        one_core = fleet(bin_dir, model, "1", "1")
        return subprocess.run([
            str(bin_dir / "bench_serve"), "--interference", f"separated={separated},one-core={one_core}",
            "--json", str(out / "interference.json"), "--svg", str(out / "interference.svg"), *sys.argv[4:],
        ]).returncode
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
