"""Baton's programs as benchmarks start them: on free ports, ended together.

    with Fleet("build/release") as fleet:
        decode = fleet.start("baton-decode", "--model", model)     # what its READY line says
        metric(decode["metrics"], "baton_requests_running")
"""
import pathlib
import subprocess
import sys
import urllib.request


def metric(url, name, label=""):
    """The sum over the series of this name, with this label where one is given."""
    with urllib.request.urlopen(url) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{") and label in line)


class Fleet:
    def __init__(self, build_dir):
        self.bin_dir = pathlib.Path(build_dir) / "bin"
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, program, *flags, listen="127.0.0.1:0"):
        """The fields of the program's READY line: listen, metrics, ..."""
        command = [str(self.bin_dir / program), "--listen", listen, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        line = process.stdout.readline().decode()
        if not line.startswith("READY "):
            sys.exit(f"{program} did not start; try it by hand: {' '.join(command)}")
        return dict(field.split("=", 1) for field in line.split()[1:])
