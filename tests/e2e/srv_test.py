"""Workers found by the SRV records of a real name server: one is added, one is taken away, one moves, and the name server
is away for a while. Needs root and dnsmasq, for a host with an /etc/resolv.conf of its own."""
import pathlib
import shutil
import subprocess
import sys

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from fleet import GEMMA, MEMORY, MODELS, WORKER_FLAGS
from messages import Answer, chat, greedy, long_request
from process import Process, wait_until

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "chaos"))
# pylint: disable=wrong-import-position
import network

DNSMASQ = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
pytestmark = [pytest.mark.skipif(not DNSMASQ, reason="dnsmasq (dnsmasq-base) is not installed"),
              pytest.mark.skipif(not network.available(), reason="needs root, to make network namespaces")]

SERVICE = "_grpc._tcp.decode.fleet.test"
# The gateway finds another /etc/resolv.conf than the machine's: ip netns exec gives it a mount namespace of its own.
WITH_RESOLV_CONF = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class NameServer:
    def __init__(self, directory, address, launcher):
        self._config = directory / "dnsmasq.conf"
        self._address = address
        self._launcher = launcher
        self._process = None
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {address}\noptions timeout:1 attempts:1\n")

    def start(self, *records):
        """With these records and no others."""
        self.stop()
        self._config.write_text("\n".join(["no-resolv", "no-hosts", "bind-interfaces", f"listen-address={self._address}",
                                           "user=root", "pid-file", "local=/fleet.test/", "log-facility=-", *records]))
        with open(self._config.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen([*self._launcher, "setpriv", "--pdeathsig", "KILL", DNSMASQ,
                                              "--keep-in-foreground", f"--conf-file={self._config}"], stderr=log)

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def host():
    made = network.Network(["fleet"], cables=False)
    yield made.place("fleet")
    made.close()


@pytest.fixture
def name_server(tmp_path, host):
    server = NameServer(tmp_path, host["host"], host["launcher"])
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path, host):
    processes = []

    def run(role, flags=(), launcher=()):
        if role != "gateway":
            flags = ["--model", str(MODELS / GEMMA), *WORKER_FLAGS, "--memory", MEMORY, *flags]
        processes.append(Process(role, flags, tmp_path, host["host"], [*host["launcher"], *launcher]))
        return processes[-1].wait_ready()

    yield run
    for process in processes:
        process.close()


def srv(name, worker, priority=10):
    """The records of a worker: where the service is, and where that host is."""
    host, port = worker.address.split(":")
    return [f"srv-host={SERVICE},{name}.fleet.test,{port},{priority}", f"host-record={name}.fleet.test,{host}"]


def workers(channel):
    """{(address, state)} of the decode workers that the gateway has."""
    status = inference_pb2_grpc.FleetStub(channel).GetStatus(pb.GetStatusRequest(), timeout=30)
    return {(worker.endpoint, worker.state) for worker in status.workers if worker.role == "decode"}


def test_workers_come_and_go_with_their_records(start, name_server, host):
    prefill, first, spare = start("prefill"), start("decode", ["--inject-step-delay-ms", "20"]), start("decode")
    plain = [f"host-record=prefill.fleet.test,{host['host']}"]
    # One of a higher priority number is for a time when there are none of the lowest.
    name_server.start(*plain, *srv("d1", first), *srv("spare", spare, priority=20))
    gateway = start("gateway", ["--prefill-worker", f"prefill.fleet.test:{prefill.address.split(':')[1]}",
                                "--decode-worker", f"srv:{SERVICE}"],
                    launcher=["sh", "-c", WITH_RESOLV_CONF, str(name_server.resolv_conf)])
    with grpc.insecure_channel(gateway.address) as channel:
        inference = inference_pb2_grpc.InferenceStub(channel)

        def ask():
            return inference.Generate(chat("What is the capital of France?", sampling=greedy()), timeout=30).text

        def wait_for(*serving):
            expected = {(worker.address, "SERVING") for worker in serving}
            wait_until(lambda: workers(channel) == expected, f"the decode workers are {expected}")

        wait_for(first)
        wait_until(lambda: gateway.value("baton_workers", worker_role="prefill", state="serving") == 1, "it is found")
        assert "Paris" in ask()
        # The name server has other news after a moment without any; everything goes on meanwhile.
        running = inference.GenerateStream(long_request(8, 150), timeout=60)
        wait_until(lambda: first.value("baton_requests_running") == 1, "it runs")
        name_server.stop()
        second = start("decode")
        assert "Paris" in ask()
        name_server.start(*plain, *srv("d1", first), *srv("d2", second))
        wait_for(first, second)

        # Taken from the records, it is used for as long as it serves, and then forgotten; what it has begun goes on.
        name_server.start(*plain, *srv("d2", second))
        first.terminate()
        assert len(Answer(running).ids) == 150
        assert first.wait_exit() == 0
        wait_for(second)

        # Others of the name take a lost worker's place.
        third = start("decode")
        name_server.start(*plain, *srv("d3", third))
        second.kill()
        wait_for(third)
        assert "Paris" in ask()
