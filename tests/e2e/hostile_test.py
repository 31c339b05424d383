"""Clients that mean harm. Whatever they send, every process stays up, goes on serving good clients without an error, and
does not let memory grow without bound."""
import contextlib
import os
import random
import resource
import socket
import subprocess
import threading
import time

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from baton.worker.v1 import worker_pb2
from http2 import (CONTINUATION, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, Peer, data, field, frame, headers,
                   indexed_field, message, reset)
from messages import chat, exactly, failure_of, greedy
from process import Process, wait_until

MIB = 1 << 20
# Both ends of thousands of connections: one is here.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
GENERATE = "/baton.v1.Inference/Generate"
# What buffers, and pages that the allocator keeps, may add.
ALLOWED_GROWTH = 192 * MIB


@pytest.fixture(scope="module")
def fleet(launch):
    return launch()


@contextlib.contextmanager
def under_attack(fleet, *targets):
    """A good client is served all the while, and `targets` stay within their memory."""
    stop = threading.Event()
    answers, errors = [], []

    def good_client():
        with fleet.new_channel() as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            request = chat("Hello", sampling=greedy(), stopping=exactly(3))
            while not stop.is_set():
                try:
                    answers.append(tuple(stub.Generate(request, timeout=30).token_ids))
                except grpc.RpcError as error:
                    errors.append(error)

    before = [process.resident_bytes() for process in targets]
    client = threading.Thread(target=good_client)
    client.start()
    try:
        wait_until(lambda: answers or errors, "the good client is served")
        yield
        done = len(answers)
        wait_until(lambda: len(answers) > done or errors, "the good client is served after it too")
    finally:
        stop.set()
        client.join()
    assert not errors and len(set(answers)) == 1
    for process, bytes_before in zip(targets, before):
        assert process.running(), process.log_tail()
        assert process.resident_bytes() - bytes_before < ALLOWED_GROWTH
    fleet.wait_idle()


@pytest.fixture(scope="module")
def silent(fleet):
    """Connections on which nothing is ever said, from the first test to the last."""
    peers = [Peer(process.address, greet=False) for process in fleet.processes() for _ in range(50)]
    yield peers
    for peer in peers:
        peer.close()


def test_garbage(fleet, silent):
    randomness = random.Random(1)
    beginnings = [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0),
                  PREFACE + frame(SETTINGS, 0, 0) + headers(1, GENERATE)]
    contents = [
        lambda: randomness.randbytes(300),
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: bytes.fromhex("16030100") + randomness.randbytes(100),
        lambda: b"\xff\xff\xff" + bytes([randomness.randrange(12), 0]) + randomness.randbytes(4),
        lambda: frame(randomness.randrange(256), randomness.randrange(256), randomness.randrange(8),
                      randomness.randbytes(40)),
        lambda: frame(HEADERS, END_HEADERS, 1, randomness.randbytes(100)),
        lambda: frame(SETTINGS, 0, 0, randomness.randbytes(60)),
        lambda: headers(1, GENERATE)[:randomness.randrange(9, 60)],
        lambda: data(1, message(b"", length=0xffffffff), flags=0),
        lambda: data(1, message(b"\xff" * 50, compressed=1)),
    ]
    with under_attack(fleet, *fleet.processes()):
        for process in fleet.processes():
            for begin in beginnings:
                for content in contents:
                    peer = Peer(process.address, greet=False)
                    peer.send(begin + content())
                    peer.close()


def test_malformed_messages(fleet):
    """Bytes that are no message, to every method of every service."""
    randomness = random.Random(2)
    services = {fleet.gateway: pb.DESCRIPTOR.services_by_name.values()}
    for worker in fleet.workers():
        services[worker] = [service for service in worker_pb2.DESCRIPTOR.services_by_name.values()
                            if service.name.lower() in ("worker", worker.role)]
    junk = [b"\xff" * 20, randomness.randbytes(200), b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" * 5000, b""]
    with under_attack(fleet, *fleet.processes()):
        for process, listed in services.items():
            with grpc.insecure_channel(process.address) as channel:
                for service in listed:
                    for method in service.methods:
                        call = channel.stream_stream(f"/{service.full_name}/{method.name}")
                        for content in junk:
                            stream = call(iter([content]), timeout=2)
                            try:
                                # One answer at most: WatchLoad would go on for ever.
                                next(iter(stream), None)
                            except grpc.RpcError as error:
                                assert error.code() != grpc.StatusCode.UNAVAILABLE, f"{method.full_name}: {error}"
                            stream.cancel()


@pytest.mark.parametrize("role", ["gateway", "prefill", "decode"])
def test_rapid_reset(fleet, role):
    """Calls that are cancelled as soon as they are made (CVE-2023-44487), with and without a request that can run, for
    seconds, from several connections and as fast as they can."""
    process = {"gateway": fleet.gateway, "prefill": fleet.prefills[0], "decode": fleet.decodes[0]}[role]
    path = GENERATE if role == "gateway" else f"/baton.worker.v1.{role.capitalize()}/Run"
    runnable = message(chat("Hello", stopping=exactly(50)).SerializeToString())
    end = time.monotonic() + 3

    def flood():
        peer, stream, sent = Peer(process.address), 1, 0
        while time.monotonic() < end and (role == "gateway" or sent < 2000):
            sent += 100
            calls = b""
            for i in range(100):
                calls += headers(stream, path) + (data(stream, runnable) if i % 4 == 0 else b"") + reset(stream)
                stream += 2
            if not peer.send(calls):
                peer.close()
                peer, stream = Peer(process.address), 1
        peer.close()

    with under_attack(fleet, process):
        floods = [threading.Thread(target=flood) for _ in range(3 if role == "gateway" else 2)]
        for thread in floods:
            thread.start()
        for thread in floods:
            thread.join()


def test_slow_headers(fleet, silent):
    """Connections that never get to the end of a call's headers, and ones with calls whose request never comes."""
    with under_attack(fleet, fleet.gateway):
        peers = [Peer(fleet.gateway.address) for _ in range(300)]
        for i, peer in enumerate(peers):
            peer.send(headers(1, GENERATE, flags=0) if i % 2 else headers(1, GENERATE))
        for _ in range(20):
            for i, peer in enumerate(peers):
                peer.send(frame(CONTINUATION, 0, 1, field("x", "y")) if i % 2 else data(1, b"\0", flags=0))
        for peer in peers:
            peer.close()


def test_oversized_metadata(fleet):
    failure = failure_of(lambda: fleet.inference.Generate(
        chat("Hello"), metadata=[("x-large", "y" * 6000), ("x-larger", "z" * 60000)], timeout=30))
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    # What is within the limit passes; on a connection of its own, since gRPC may close the one with the oversized call.
    with fleet.new_channel() as channel:
        inference_pb2_grpc.InferenceStub(channel).Generate(chat("Hello", stopping=exactly(1)),
                                                           metadata=[("x-large", "y" * 6000)], timeout=30)

    with under_attack(fleet, fleet.gateway):
        # Headers without an end.
        peer = Peer(fleet.gateway.address)
        peer.send(headers(1, GENERATE, flags=0))
        piece = frame(CONTINUATION, 0, 1, field("x-flood", "y" * 16000))
        for _ in range(5000):
            if not peer.send(piece):
                break
        peer.close()
        # A large field named again and again by its number in the table.
        peer = Peer(fleet.gateway.address)
        peer.send(headers(1, GENERATE, indexed_field("x-bomb", "y" * 3500), flags=0))
        for _ in range(500):
            if not peer.send(frame(CONTINUATION, 0, 1, b"\xbe" * 16000)):
                break
        peer.close()


def test_pings_and_settings_that_nobody_reads_the_answers_of(fleet):
    with under_attack(fleet, fleet.gateway):
        for piece in (frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0")):
            peer = Peer(fleet.gateway.address)
            peer.socket.settimeout(1)
            sent = 0
            try:
                while sent < 32 * MIB:
                    peer.socket.sendall(piece * 1000)
                    sent += 1000 * len(piece)
            except OSError:
                pass  # Hung up, or it takes nothing more: both are fine.
            peer.close()


def test_messages_that_are_too_large(fleet):
    failure = failure_of(lambda: fleet.inference.Generate(chat("x" * 5 * MIB), timeout=60))
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    with under_attack(fleet, fleet.gateway):
        peers = [Peer(fleet.gateway.address) for _ in range(50)]
        for peer in peers:
            # Announced, begun, and never ended.
            peer.send(headers(1, GENERATE) + data(1, message(b"x" * 16000, length=4 * MIB - 1), flags=0))
            peer.send(data(1, b"x" * 16000, flags=0) * 2)
        for peer in peers:
            peer.close()


def test_many_connections(fleet):
    with under_attack(fleet, fleet.gateway):
        for _ in range(2):
            peers = []
            try:
                for _ in range(2000):
                    peers.append(Peer(fleet.gateway.address))
                assert fleet.gateway.resident_bytes() < 1024 * MIB
            finally:
                for peer in peers:
                    peer.close()


def test_no_more_connections_than_allowed(fleet, tmp_path):
    """Further ones are closed at once, and when others go there is room again."""
    gateway = Process("gateway", [*worker_addresses(fleet), "--max-connections", "64"], tmp_path)
    try:
        gateway.wait_ready()
        peers = [Peer(gateway.address, greet=False) for _ in range(150)]
        wait_until(lambda: sum(peer.closed() for peer in peers) >= 150 - 64, "those beyond the limit are closed")
        assert sum(peer.closed() for peer in peers) < 150
        for peer in peers:
            peer.close()
        expect_service(gateway)
    finally:
        gateway.close()


def worker_addresses(fleet):
    return [flag for worker in fleet.workers() for flag in (f"--{worker.role}-worker", worker.address)]


def expect_service(gateway):
    def served():
        with grpc.insecure_channel(gateway.address) as channel:
            try:
                return inference_pb2_grpc.InferenceStub(channel).Generate(chat("Hi", stopping=exactly(1)), timeout=10)
            except grpc.RpcError:
                return None

    wait_until(served, "the gateway serves")


def test_more_connections_than_files(fleet, tmp_path):
    """A gateway that has used up its file descriptors takes connections again when there are some."""
    gateway = Process("gateway", worker_addresses(fleet), tmp_path)
    try:
        gateway.wait_ready()
        subprocess.run(["prlimit", "--pid", str(gateway.pid), "--nofile=128:128"], check=True)
        peers = [socket.create_connection(tuple(gateway.address.rsplit(":", 1)), timeout=10) for _ in range(300)]
        wait_until(lambda: len(os.listdir(f"/proc/{gateway.pid}/fd")) > 120, "its files are used up")
        for peer in peers:
            peer.close()
        expect_service(gateway)
    finally:
        gateway.close()


def test_silent_connections_are_dropped(silent):
    """The last test: by now most of their time has passed."""
    wait_until(lambda: all(peer.closed() for peer in silent), "all are closed", timeout=30)
