#!/usr/bin/env python3
"""How a fleet bears more load than it can carry: goodput, refusals and time to the first token from 0.2 to 5 times its
capacity, which is measured first.

    bench/overload.py BUILD_DIR MODEL_DIR OUT_DIR [--seconds S] [--ttft-ms MS] [--prompt-tokens N] [--output-tokens N]

One prefill and one decode worker with a core each. A request is good when its first token comes within --ttft-ms; its
deadline is that plus what its tokens take. Writes OUT_DIR/overload.json and .svg; bench/overload.svg is one of these.
"""
import argparse
import json
import pathlib
import subprocess

from fleet_processes import Fleet

FACTORS = [0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0]


def measure(bin_dir, gateway, options, rate, out):
    subprocess.run([bin_dir / "bench_serve", "--gateway", gateway, "--rate", str(rate), "--duration",
                    str(options.seconds), "--warmup", "3", "--prompt-tokens", f"fixed:{options.prompt_tokens}",
                    "--output-tokens", f"fixed:{options.output_tokens}", "--slo-ttft-ms", str(options.ttft_ms), "--timeout",
                    str(options.ttft_ms / 1000 + 20), "--connections", "8", "--quiet", "--json", str(out)],
                   check=False, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def plot(rows, capacity, path):
    width, height, left, bottom, top = 640, 360, 60, 40, 30
    x_of = lambda factor: left + (width - left - 20) * factor / 5
    most = max(max(row["goodput"] for row in rows), 1e-9) * 1.15
    y_of = lambda value: height - bottom - (height - bottom - top) * value / most
    line = lambda points: " ".join(f"{x_of(factor):.1f},{y_of(value):.1f}" for factor, value in points)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
             f'<text x="{left}" y="18">Goodput (requests/s whose first token came in time) against offered load</text>']
    for factor in (0, 1, 2, 3, 4, 5):
        parts.append(f'<line x1="{x_of(factor)}" x2="{x_of(factor)}" y1="{top}" y2="{height - bottom}" stroke="#ddd"/>'
                     f'<text x="{x_of(factor) - 4}" y="{height - 22}">{factor}</text>')
    for step in range(6):
        value = most * step / 5
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}" '
                     f'stroke="#ddd"/><text x="8" y="{y_of(value) + 4:.1f}">{value:.1f}</text>')
    parts.append(f'<polyline fill="none" stroke="#888" stroke-dasharray="4" '
                 f'points="{line([(0, 0), (most / capacity, most)])}"/>')
    parts.append(f'<polyline fill="none" stroke="#1f77b4" stroke-width="2" '
                 f'points="{line([(row["factor"], row["goodput"]) for row in rows])}"/>')
    for row in rows:
        parts.append(f'<circle cx="{x_of(row["factor"]):.1f}" cy="{y_of(row["goodput"]):.1f}" r="3" fill="#1f77b4"/>')
    parts.append(f'<text x="{width // 2 - 130}" y="{height - 6}">offered load / capacity of {capacity:.1f} requests/s '
                 f'(dashed: offered)</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--ttft-ms", type=float, default=2500)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--probe-rate", type=float, default=200, help="requests/s, far beyond what the fleet can serve")
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    common = ["--model", options.model, "--threads", "1", "--memory", "2GiB"]
    with Fleet(options.build) as fleet:
        prefill = fleet.start("baton-prefill", *common, "--cpus", "0", "--prefix-cache", "off")["listen"]
        decode = fleet.start("baton-decode", *common, "--cpus", "1")["listen"]
        gateway = fleet.start("baton-gateway", "--prefill-worker", prefill, "--decode-worker", decode, "--queue-timeout",
                              str(options.ttft_ms / 2000), "--prefill-backlog", str(options.ttft_ms / 4000))["listen"]
        file = out / "one.json"
        probe = measure(fleet.bin_dir, gateway, options, options.probe_rate, file)
        capacity = probe["rate"]["achieved"]
        print(f"capacity: {capacity:.2f} requests/s")
        rows = []
        for factor in FACTORS:
            report = measure(fleet.bin_dir, gateway, options, capacity * factor, file)
            rows.append({"factor": factor, "offered": capacity * factor, "report": report,
                         "goodput": (report["goodput"] or {}).get("requests_per_second", 0)})
            first = report["seconds"]["time_to_first_token"]
            refused = {error["error"]: error["count"] for error in report["errors"]}
            print(f"{factor:4.1f}x  offered {capacity * factor:6.2f}/s  goodput {rows[-1]['goodput']:6.2f}/s  "
                  f"ttft p50 {first['p50']:.2f} s p99 {first['p99']:.2f} s  errors {refused}", flush=True)
        best = max(row["goodput"] for row in rows)
        for row in rows:
            print(f"{row['factor']:4.1f}x  {row['goodput'] / best:.2f} of the best goodput")
        (out / "overload.json").write_text(json.dumps({"capacity": capacity, "rows": rows}, indent=1))
        plot(rows, capacity, out / "overload.svg")
        file.unlink()


if __name__ == "__main__":
    main()
