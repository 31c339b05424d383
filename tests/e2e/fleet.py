"""A gateway with its workers, on loopback, and what tests want to know of them.

    fleet = launch(models=[GEMMA], decode=2, prefill_flags=["--chunk-tokens", "16"])    # a pytest fixture
    stream = fleet.stream(chat("Hello"))
    fleet.wait_idle()                   # nothing runs, waits or holds memory anywhere
"""
import pathlib
import sys

import grpc

from baton.v1 import inference_pb2_grpc
from process import Process, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "deploy" / "models"
TRAINED = ROOT / "tests" / "data" / "trained"
GEMMA = "tiny-gemma2"
RECURRENT = "tiny-recurrentgemma"
# One thread each: a fleet has many processes, and the models are tiny.
WORKER_FLAGS = ["--threads", "1"]
MEMORY = "64MiB"


class Fleet:
    def __init__(self, log_dir, models=(GEMMA,), prefill=1, decode=1, prefill_flags=(), decode_flags=(),
                 decode_memory=MEMORY, gateway_flags=(), place=lambda role, number: {}):
        """`place`: where a process runs, as Process takes it."""
        self.prefills = []
        self.decodes = []
        self.gateway = None
        self.channel = None
        self._log_dir = log_dir
        self._place = place
        try:
            for model in models:
                directory = model if "/" in str(model) else MODELS / model
                flags = ["--model", str(directory), *WORKER_FLAGS]
                prefill_all = [*flags, "--memory", MEMORY, *prefill_flags]
                decode_all = [*flags, "--memory", str(decode_memory), *decode_flags]
                self.prefills += [Process("prefill", prefill_all, log_dir, **place("prefill", i)) for i in range(prefill)]
                self.decodes += [Process("decode", decode_all, log_dir, **place("decode", i)) for i in range(decode)]
            for worker in self.workers():
                worker.wait_ready()
            # Most prompts of the tests are short, and most tests are about handing over what they leave behind.
            local = [] if "--local-prefill-tokens" in gateway_flags else ["--local-prefill-tokens", "0"]
            self.gateway = self.start_gateway([*local, *gateway_flags])
            self.channel = self.new_channel()
            self.inference = inference_pb2_grpc.InferenceStub(self.channel)
            self.fleet = inference_pb2_grpc.FleetStub(self.channel)
            self.wait_ready(prefill * len(models), decode * len(models))
            self.idle_bytes = {id(worker): worker.value("baton_state_bytes_used") for worker in self.workers()}
        except BaseException:
            print(self.logs(), file=sys.stderr)  # pytest shows it
            self.close()
            raise

    def start_gateway(self, flags):
        """A gateway in front of the fleet's workers; the caller closes it, but for the fleet's own."""
        addresses = []
        for worker in self.workers():
            addresses += [f"--{worker.role}-worker", worker.address]
        return Process("gateway", [*addresses, *flags], self._log_dir, **self._place("gateway", 0)).wait_ready()

    def workers(self):
        return self.prefills + self.decodes

    def processes(self):
        return self.workers() + ([self.gateway] if self.gateway else [])

    def new_channel(self):
        # A pool of its own: channels to the same address otherwise share one connection.
        return grpc.insecure_channel(self.gateway.address, options=[("grpc.use_local_subchannel_pool", 1)])

    def close(self):
        if self.channel:
            self.channel.close()
        for process in self.processes():
            process.close()

    def serving(self, role):
        return self.gateway.value("baton_workers", worker_role=role, state="serving")

    def wait_ready(self, prefill=None, decode=None):
        """Until the gateway counts as many workers as serving."""
        if prefill is not None:
            wait_until(lambda: self.serving("prefill") == prefill, f"{prefill} prefill workers serving")
        if decode is not None:
            wait_until(lambda: self.serving("decode") == decode, f"{decode} decode workers serving")

    def busy(self):
        """Why the fleet is not idle; empty when it is."""
        reasons = []
        for process in self.processes():
            if not process.running():
                continue
            samples = process.metrics()
            for name in ("baton_requests_running", "baton_requests_waiting", "baton_queued_tokens"):
                count = sum(value for (series, _), value in samples.items() if series == name)
                if count:
                    reasons.append(f"{process.role} {process.address}: {name} {count:g}")
            if process is self.gateway:
                continue
            used = sum(value for (series, _), value in samples.items() if series == "baton_state_bytes_used")
            # What the prefix cache keeps is nobody's; with nothing running it alone holds it.
            used -= sum(value for (series, _), value in samples.items() if series == "baton_prefix_cache_bytes")
            # Kept conversations stay until they expire or others need the room.
            used -= process.value("baton_session_bytes", place="memory")
            if used != self.idle_bytes.get(id(process), 0):
                reasons.append(f"{process.role} {process.address}: {used:g} bytes of state in use")
        return reasons

    def wait_idle(self, timeout=20):
        """Until nothing runs or waits and the workers' memory is what it was at the start."""
        reasons = []

        def idle():
            reasons[:] = self.busy()
            return not reasons

        try:
            wait_until(idle, "the fleet is idle", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}: {'; '.join(reasons)}") from None

    def logs(self):
        return "\n".join(process.log_tail() for process in self.processes())

    def generate(self, request, timeout=60):
        return self.inference.Generate(request, timeout=timeout)

    def stream(self, request, timeout=60):
        return self.inference.GenerateStream(request, timeout=timeout)
