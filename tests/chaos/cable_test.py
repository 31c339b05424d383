"""Cables made in user space do to frames what they are told, and nothing else."""
import random
import socket
import subprocess
import sys

import pytest

import network
from cable import MOST_WAITING, Direction, Line

HOST = "far"
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 7))
print(flush=True)
while True:
    data, peer = sock.recvfrom(2000)
    sock.sendto(data, peer)
"""


def carried(line, count=2000):
    """[(when, frame)] of frames that leave at 0, 1, 2, ... ms."""
    direction = Direction(random.Random(1))
    direction.line = line
    for number in range(count):
        direction.put(number, number / 1000)
    arrived = []
    while direction.next_due() is not None:
        now = direction.next_due()
        arrived += [(now, frame) for frame in direction.take(now)]
    return arrived, direction.counts


def frames(arrived):
    return [frame for _, frame in arrived]


def test_a_good_line():
    arrived, counts = carried(Line())
    assert arrived == [(number / 1000, number) for number in range(2000)]
    assert counts == {"frames": 2000}


def test_loss():
    arrived, counts = carried(Line(loss=0.1))
    assert frames(arrived) == sorted(set(frames(arrived)))
    assert len(arrived) == 2000 - counts["lost"] and 100 < counts["lost"] < 300
    assert carried(Line(loss=1))[0] == []


def test_delays_keep_the_order():
    arrived, _ = carried(Line(delay=0.05, jitter=0.04))
    assert frames(arrived) == list(range(2000))
    waits = [when - number / 1000 for when, number in arrived]
    assert min(waits) >= 0.01 and max(waits) <= 0.09 and max(waits) - min(waits) > 0.01


def test_shuffled_and_doubled():
    arrived, counts = carried(Line(reorder=0.1, reorder_delay=0.005, duplicate=0.1))
    assert set(frames(arrived)) == set(range(2000))
    assert len(arrived) == 2000 + counts["doubled"] and 100 < counts["doubled"] < 300
    assert frames(arrived) != sorted(frames(arrived)) and counts["overtaken"] > 100
    assert max(when - number / 1000 for when, number in arrived) <= 0.005 + 1e-9


def test_a_full_cable_drops():
    arrived, counts = carried(Line(delay=1000), MOST_WAITING + 5)
    assert len(arrived) == MOST_WAITING and counts["dropped by a full cable"] == 5


@pytest.fixture
def echo():
    """A socket that is answered by a host with a cable."""
    if not network.available():
        pytest.skip("needs root, to make network namespaces")
    hosts = network.Network([HOST])
    try:
        if not hosts.has_cables:
            pytest.skip(f"no cables: {hosts.no_cables}")
        far = subprocess.Popen([*hosts.place(HOST)["launcher"], sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        try:
            far.stdout.readline()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect((hosts.address(HOST), 7))
                yield hosts, sock
        finally:
            far.kill()
            far.wait()
            far.stdout.close()
    finally:
        hosts.close()


def test_a_cable_between_hosts(echo):
    hosts, sock = echo

    def answered(message):
        sock.send(message)
        try:
            while sock.recv(100) != message:
                pass
            return True
        except TimeoutError:
            return False

    sock.settimeout(10)
    assert answered(b"first")
    for to_host, from_host in ((Line(loss=1), Line()), (Line(), Line(loss=1))):
        hosts.disturb(HOST, to_host, from_host)
        before = hosts.frames().get("lost", 0)
        sock.settimeout(0.2)
        assert not answered(b"lost")
        assert hosts.frames()["lost"] > before
        hosts.heal(HOST)
        sock.settimeout(10)
        assert answered(b"healed")
    hosts.disturb(HOST, Line(duplicate=1))
    sock.send(b"doubled")
    assert [sock.recv(100), sock.recv(100)] == [b"doubled"] * 2
