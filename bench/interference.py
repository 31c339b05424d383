#!/usr/bin/env python3
"""Two fleets of one model on two cores, and `bench_serve --interference` on both: separated workers with a core each, and
the same two workers on one core.

    bench/interference.py BUILD_DIR MODEL_DIR OUT_DIR [more flags of bench_serve]

Writes OUT_DIR/interference.json and .svg. bench/interference.svg is one of these.
"""
import pathlib
import subprocess
import sys

from fleet_processes import Fleet


def gateway_of(fleet, model, prefill_cpu, decode_cpu):
    common = ["--model", model, "--threads", "1", "--memory", "2GiB"]
    prefill = fleet.start("baton-prefill", *common, "--cpus", prefill_cpu)["listen"]
    decode = fleet.start("baton-decode", *common, "--cpus", decode_cpu)["listen"]
    return fleet.start("baton-gateway", "--prefill-worker", prefill, "--decode-worker", decode)["listen"]


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    model, out = sys.argv[2], pathlib.Path(sys.argv[3])
    with Fleet(sys.argv[1]) as fleet:
        separated = gateway_of(fleet, model, "0", "1")
        one_core = gateway_of(fleet, model, "1", "1")
        return subprocess.run([
            str(fleet.bin_dir / "bench_serve"), "--interference", f"separated={separated},one-core={one_core}",
            "--json", str(out / "interference.json"), "--svg", str(out / "interference.svg"), *sys.argv[4:],
        ]).returncode


if __name__ == "__main__":
    sys.exit(main())
