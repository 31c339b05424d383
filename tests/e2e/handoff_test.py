"""The handoff between real processes on one host: shared memory, what it falls back to, and what is left of it when
either side is killed while state is on its way."""
import os
import pathlib
import resource

import pytest

from fleet import GEMMA, RECURRENT
from messages import Answer, failure_of_stream, long_request
from process import wait_until

# Chunks small enough that state is on its way for a while.
SLOW = ["--chunk-tokens", "16", "--inject-step-delay-ms", "20"]
SHARED = ["--handoff-transport", "shm"]


def shared_bytes(fleet):
    return sum(worker.value("baton_handoff_shared_bytes_total") for worker in fleet.prefills)


def memory_files(process):
    """Handoff memory that a process holds: open descriptors and mappings."""
    root = pathlib.Path("/proc") / str(process.pid)
    names = []
    for entry in (root / "fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:  # closed meanwhile
            pass
    names += (root / "maps").read_text().splitlines()
    return [name for name in names if "memfd:baton-handoff" in name]


def dev_shm():
    return {name for name in os.listdir("/dev/shm") if "baton" in name}


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_every_transport_gives_the_same_tokens(launch_for_test, model):
    request = long_request(700, 12, model=model)
    answers = {}
    for transport in ("grpc", "shm", "auto"):
        fleet = launch_for_test(models=[model],
                                prefill_flags=["--chunk-tokens", "64", "--handoff-transport", transport])
        for _ in range(2):
            answers.setdefault(transport, []).append(Answer(fleet.stream(request)).ids)
        fleet.wait_idle()
        if transport == "shm":
            assert shared_bytes(fleet) > 0
            assert fleet.decodes[0].value("baton_handoff_bytes_total") >= shared_bytes(fleet)
        if transport == "grpc":
            assert shared_bytes(fleet) == 0
    assert answers["grpc"] == answers["shm"] == answers["auto"]
    assert not dev_shm()


def test_int8_halves_the_bytes(launch_for_test):
    request = long_request(512, 4)
    sent = {}
    for dtype in ("bf16", "int8"):
        fleet = launch_for_test(prefill_flags=["--handoff-dtype", dtype])
        assert len(Answer(fleet.stream(request)).ids) == 4
        fleet.wait_idle()
        sent[dtype] = fleet.prefills[0].value("baton_handoff_bytes_total")
    assert sent["int8"] < 0.55 * sent["bf16"]


def test_falls_back_when_there_is_no_memory_to_share(launch_for_test):
    """A limit on the size of files is one way to have no room for a memory file: the same error as a full one."""
    limit = 1 << 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        fleet = launch_for_test(prefill_flags=SHARED + ["--cache-dir", "none"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for _ in range(3):
        assert len(Answer(fleet.stream(long_request(300, 5))).ids) == 5
    fleet.wait_idle()
    assert shared_bytes(fleet) == 0
    assert "handoff_shared_memory" in fleet.prefills[0].log_tail()


@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("transport", ["shm", "grpc"])
def test_kill_in_mid_write(launch_for_test, role, transport):
    """kill -9 while state is on its way: the other side gives everything back, and nothing is left in the system."""
    # Nobody else could go on with it.
    fleet = launch_for_test(prefill_flags=SLOW + ["--handoff-transport", transport],
                            gateway_flags=["--resume-timeout", "0"])
    expected = Answer(fleet.stream(long_request(600, 3))).ids
    fleet.wait_idle()
    for _ in range(3):
        victim = (fleet.prefills if role == "prefill" else fleet.decodes)[0]
        survivor = (fleet.decodes if role == "prefill" else fleet.prefills)[0]
        before = fleet.decodes[0].value("baton_handoff_bytes_total")
        stream = fleet.stream(long_request(600, 3))
        wait_until(lambda: fleet.decodes[0].value("baton_handoff_bytes_total") > before + 50000, "state is on its way")
        if transport == "shm":
            wait_until(lambda: memory_files(fleet.decodes[0]), "the decode worker reads it")
        victim.kill()
        failure_of_stream(stream)
        fleet.wait_idle()
        # Mappings of a dead sender go with the call; a sender's own memory is kept for the pair's next handoff.
        if role == "prefill":
            wait_until(lambda: not memory_files(survivor), "the decode worker has let go of it")
        assert not dev_shm()
        victim.restart()
        fleet.idle_bytes[id(victim)] = victim.value("baton_state_bytes_used")
        fleet.wait_ready(1, 1)
        assert Answer(fleet.stream(long_request(600, 3))).ids == expected
        fleet.wait_idle()


def test_a_thousand_cancelled_handoffs_leave_nothing(launch_for_test):
    fleet = launch_for_test(prefill_flags=["--chunk-tokens", "16", *SHARED])
    requests = [long_request(200 + i, 3) for i in range(8)]

    def rush(rounds):
        for _ in range(rounds):
            streams = [fleet.stream(request) for request in requests]
            for i, stream in enumerate(streams):
                if i % 2 == 0:
                    next(iter(stream))
                stream.cancel()
        fleet.wait_idle(timeout=60)

    rush(25)
    before = {id(worker): worker.resident_bytes() for worker in fleet.workers()}
    rush(125)
    for worker in fleet.workers():
        assert worker.resident_bytes() < before[id(worker)] + (48 << 20), worker.role
    assert len(memory_files(fleet.prefills[0])) <= 2, "one memory for the pair"
    assert not memory_files(fleet.decodes[0])
    assert len(Answer(fleet.stream(long_request(200, 3))).ids) == 3
    fleet.wait_idle()
