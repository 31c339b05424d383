"""One real Baton process: started on free ports, watched, and never left behind.

    process = Process("decode", ["--model", directory], log_dir)
    process.wait_ready()
    process.address                     # host:port of its gRPC server
    process.value("baton_requests_running", model="tiny-gemma2")
    process.terminate()                 # SIGTERM
    assert process.wait_exit() == 0
"""
import os
import pathlib
import re
import select
import signal
import subprocess
import time
import urllib.request

import grpc

BIN_DIR = pathlib.Path(os.environ["BATON_BIN_DIR"])
START_SECONDS = 60
EXIT_SECONDS = 30
_SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def wait_until(condition, what, timeout=20):
    """Polls until `condition()` is true and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout} s still not: {what}"
        time.sleep(0.02)


def parse_metrics(text):
    """{(name, ((label, value), ...)): number}; a series that appears twice is an error."""
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        assert match, f"not a metrics line: {line!r}"
        series = (match[1], tuple(sorted(_LABEL.findall(match[2] or ""))))
        assert series not in samples, f"series appears twice: {line!r}"
        samples[series] = float(match[3])
    return samples


class Process:
    def __init__(self, role, flags, log_dir, host="127.0.0.1", launcher=()):
        """`launcher`: put before the command, such as ip netns exec NAME. `host`: to listen on, for metrics too."""
        self.role = role
        self.host = host
        self._launcher = list(launcher)
        self.flags = list(flags)
        self._log_dir = pathlib.Path(log_dir)
        self._starts = 0
        self.address = None
        self._metrics_url = None
        self._start()

    def _start(self):
        self._starts += 1
        self.log_path = self._log_dir / f"{self.role}-{id(self):x}-{self._starts}.log"
        listen = self.address or f"{self.host}:0"
        program = BIN_DIR / f"baton-{self.role}"
        # The kernel kills the process when this one goes, however it goes.
        command = [*self._launcher, "setpriv", "--pdeathsig", "KILL", str(program), "--listen", listen,
                   "--metrics", f"{self.host}:0", *self.flags]
        with open(self.log_path, "wb") as log:
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)

    @property
    def pid(self):
        return self._popen.pid

    def wait_ready(self):
        line = self._read_line()
        assert line.startswith("READY "), f"{self.role} printed {line!r} instead of READY\n{self.log_tail()}"
        fields = dict(field.split("=", 1) for field in line.split()[1:])
        assert fields["role"] == self.role
        self.address = fields["listen"]
        self._metrics_url = fields["metrics"]
        self.ready_fields = fields
        return self

    def _read_line(self):
        deadline = time.monotonic() + START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._popen.stdout], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"{self.role} was not ready after {START_SECONDS} s\n{self.log_tail()}"
            byte = os.read(self._popen.stdout.fileno(), 1)
            assert byte, f"{self.role} exited with {self._popen.wait()} before it was ready\n{self.log_tail()}"
            line += byte
        return line.decode().rstrip("\n")

    def restart(self):
        """Again on the same port, once the last one has exited."""
        self.wait_exit()
        self._start()
        return self.wait_ready()

    def kill(self):
        """kill -9, and gone on return."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self):
        self._popen.send_signal(signal.SIGTERM)

    def stop(self):
        """Hangs, as far as anyone can see, until go_on()."""
        self._popen.send_signal(signal.SIGSTOP)

    def go_on(self):
        self._popen.send_signal(signal.SIGCONT)

    def wait_exit(self):
        try:
            return self._popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.role} did not exit in {EXIT_SECONDS} s\n{self.log_tail()}") from None

    def running(self):
        return self._popen.poll() is None

    def close(self):
        if self.running():
            self.kill()
        self._popen.stdout.close()

    def resident_bytes(self):
        """What it has of the machine's memory; 0 under sanitizers, which keep what is freed and shadow what is used."""
        status = (pathlib.Path("/proc") / str(self.pid) / "status").read_text()
        kilobytes = {name: int(status.split(f"{name}:")[1].split()[0]) for name in ("VmSize", "VmRSS")}
        # They reserve terabytes of addresses for their shadow.
        return 0 if kilobytes["VmSize"] > 4 << 30 else kilobytes["VmRSS"] << 10

    def log_tail(self, lines=15):
        text = self.log_path.read_text(errors="replace").splitlines()
        state = "running" if self.running() else f"exited with {self._popen.returncode}"
        return f"--- {self.role} {self.address or ''} {' '.join(self.flags)} ({state})\n" + "\n".join(text[-lines:])

    def metrics_text(self):
        with urllib.request.urlopen(self._metrics_url, timeout=10) as response:
            return response.read().decode()

    def metrics_address(self):
        return self._metrics_url.split("//")[1].split("/")[0]

    def metrics(self):
        return parse_metrics(self.metrics_text())

    def value(self, name, **labels):
        """Sum over the series of this name with these labels."""
        wanted = set(labels.items())
        return sum(number for (series, pairs), number in self.metrics().items()
                   if series == name and wanted <= set(pairs))

    def health(self, service="", timeout=5):
        """SERVING, NOT_SERVING, ... by grpc.health.v1, whose messages are spelled by hand: Debian has no package."""
        request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
        with grpc.insecure_channel(self.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            response = check(request, timeout=timeout)
        status = response[1] if response[:1] == b"\x08" else 0
        return ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"][status]
