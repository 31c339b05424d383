"""Workers found through a real etcd: they come, go, die and drain, gateways follow; etcd itself may be away."""
import json
import shutil
import socket
import subprocess
import urllib.request

import grpc
import pytest

from fleet import GEMMA, MEMORY, MODELS, WORKER_FLAGS
from messages import chat, greedy
from process import Process, wait_until
from baton.v1 import inference_pb2_grpc


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Etcd:
    def __init__(self, directory):
        self._directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self.start()

    def start(self):
        url = f"http://{self.address}"
        self._process = subprocess.Popen(
            [shutil.which("etcd") or "/usr/bin/etcd", "--data-dir", str(self._directory),
             "--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", self._peer,
             "--initial-advertise-peer-urls", self._peer, "--initial-cluster", f"default={self._peer}",
             "--logger", "zap", "--log-outputs", "stderr"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._healthy, "etcd is up")

    def _healthy(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                return json.load(answer)["health"] == "true"
        except OSError:
            return False

    def stop(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    member = Etcd(tmp_path_factory.mktemp("etcd"))
    yield member
    member.stop()


@pytest.fixture
def start(tmp_path, etcd):
    processes = []

    def run(role):
        flags = ["--etcd", etcd.address]
        if role != "gateway":
            flags += ["--model", str(MODELS / GEMMA), *WORKER_FLAGS, "--memory", MEMORY]
        process = Process(role, flags, tmp_path)
        processes.append(process)
        return process.wait_ready()

    yield run
    for process in processes:
        process.close()


def serving(gateway, role):
    return gateway.value("baton_workers", worker_role=role, state="serving")


def wait_for(gateways, prefill, decode):
    for gateway in gateways:
        wait_until(lambda: serving(gateway, "prefill") == prefill and serving(gateway, "decode") == decode,
                   f"{prefill} prefill and {decode} decode workers")


def text_of(gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        return stub.Generate(chat("What is the capital of France?", sampling=greedy()), timeout=30).text


def test_workers_come_and_go(etcd, start):
    gateways = [start("gateway"), start("gateway")]
    prefill, decode = start("prefill"), start("decode")
    wait_for(gateways, 1, 1)
    texts = {text_of(gateway) for gateway in gateways}
    assert len(texts) == 1 and "Paris" in texts.pop()

    second = start("decode")
    wait_for(gateways, 1, 2)
    second.terminate()
    assert second.wait_exit() == 0
    wait_for(gateways, 1, 1)
    # Nothing of it is left, neither as unreachable.
    for gateway in gateways:
        wait_until(lambda: not gateway.value("baton_workers", worker_role="decode", state="unreachable"), "forgotten")

    # Without etcd everything goes on, and what starts meanwhile is found when it is back.
    etcd.stop()
    third = start("decode")
    assert "Paris" in text_of(gateways[0])
    etcd.start()
    wait_for(gateways, 1, 2)
    # A worker that is killed is forgotten when its lease ends.
    third.kill()
    for gateway in gateways:
        wait_until(lambda: not gateway.value("baton_workers", worker_role="decode", state="unreachable")
                   and serving(gateway, "decode") == 1, "the killed worker forgotten", timeout=40)
    assert "Paris" in text_of(gateways[1])
    assert prefill.running() and decode.running()
