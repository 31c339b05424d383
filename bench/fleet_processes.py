"""Baton's programs as benchmarks start them: on free ports, ended together.

    with Fleet("build/release") as fleet:
        decode = fleet.start("baton-decode", "--model", model)["listen"]     # what its READY line says
"""
import pathlib
import subprocess
import sys


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

    def start(self, program, *flags):
        """The fields of the program's READY line: listen, metrics, ..."""
        command = [str(self.bin_dir / program), "--listen", "127.0.0.1:0", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        line = process.stdout.readline().decode()
        if not line.startswith("READY "):
            sys.exit(f"{program} did not start; try it by hand: {' '.join(command)}")
        return dict(field.split("=", 1) for field in line.split()[1:])
