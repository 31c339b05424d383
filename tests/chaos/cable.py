"""Network cables made in user space, for kernels without netem: Ethernet frames go from one TAP device to another, and on
the way are lost, delayed, doubled or overtaken, in each direction as it is told to at the time.

    python3 cable.py SEED NAME:TAP:TAP...         # needs root; the devices are there as long as it runs

Standard input takes one JSON object a line, and each gets a line of answer. It ends with its input.

    {"cable": "p0", "there": {"loss": 0.1, "delay": 0.05}, "back": {}}    there: from the first TAP to the second
    {"counts": true}                                                     what happened to frames so far
"""
import collections
import dataclasses
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUN = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
# Larger than any frame: TAP devices without offload carry one MTU each.
FRAME_BYTES = 65536
# Of one device before the others get their turn.
FRAMES_A_TURN = 64
# On their way in one direction; what comes then is dropped, as by a full switch.
MOST_WAITING = 20000


@dataclasses.dataclass(frozen=True)
class Line:
    """What happens to frames in one direction. Shares are between 0 and 1, times in seconds."""

    loss: float = 0.0
    delay: float = 0.0
    # Delays are up to this much shorter or longer, but frames stay in order.
    jitter: float = 0.0
    # These come that much later than they would, after others that left after them.
    reorder: float = 0.0
    reorder_delay: float = 0.02
    duplicate: float = 0.0


class Direction:
    """Frames on their way. Knows nothing of devices."""

    def __init__(self, chance):
        self.line = Line()
        self.counts = collections.Counter()
        self._chance = chance
        self._waiting = []
        self._number = 0
        self._last_due = 0.0

    def put(self, frame, now):
        line = self.line
        self.counts["frames"] += 1
        if self._chance.random() < line.loss:
            self.counts["lost"] += 1
            return
        self._send(frame, now)
        if self._chance.random() < line.duplicate:
            self.counts["doubled"] += 1
            self._send(frame, now)

    def _send(self, frame, now):
        line = self.line
        if len(self._waiting) >= MOST_WAITING:
            self.counts["dropped by a full cable"] += 1
            return
        due = max(self._last_due, now + line.delay + self._chance.uniform(-line.jitter, line.jitter))
        if self._chance.random() < line.reorder:
            self.counts["overtaken"] += 1
            due += line.reorder_delay
        else:
            self._last_due = due
        if due > now:
            self.counts["delayed"] += 1
        self._number += 1
        heapq.heappush(self._waiting, (due, self._number, frame))

    def next_due(self):
        return self._waiting[0][0] if self._waiting else None

    def take(self, now):
        """The frames that are due."""
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[2])
        return taken


def open_tap(name):
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device


def unavailable():
    """Why this process can make no cables; empty when it can."""
    try:
        os.close(open_tap(f"btn{os.getpid()}"))
        return ""
    except OSError as error:
        return f"{TUN}: {error.strerror}"


class Cables:
    def __init__(self, seed, pairs):
        """`pairs`: {name: (TAP, TAP)}"""
        self._directions = {}
        self._ways = {}
        self._epoll = select.epoll()
        self._input = b""
        for name, taps in pairs.items():
            ends = [open_tap(tap) for tap in taps]
            both = [Direction(random.Random(f"{seed}/{name}/{i}")) for i in range(2)]
            self._directions[name] = both
            self._ways[ends[0]] = (both[0], ends[1])
            self._ways[ends[1]] = (both[1], ends[0])
        for end in self._ways:
            self._epoll.register(end, select.EPOLLIN)
        os.set_blocking(sys.stdin.fileno(), False)
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)

    def run(self):
        while True:
            now = time.monotonic()
            due = [direction.next_due() for direction, _ in self._ways.values()]
            soonest = min((when for when in due if when is not None), default=None)
            for descriptor, _ in self._epoll.poll(-1 if soonest is None else max(0, soonest - now)):
                if descriptor == sys.stdin.fileno():
                    if not self._obey():
                        return
                else:
                    self._read(descriptor)
            now = time.monotonic()
            for direction, end in self._ways.values():
                for frame in direction.take(now):
                    self._write(end, frame)

    def _read(self, end):
        direction, _ = self._ways[end]
        now = time.monotonic()
        for _ in range(FRAMES_A_TURN):
            try:
                direction.put(os.read(end, FRAME_BYTES), now)
            except BlockingIOError:
                return
            except OSError:  # The device is down or gone; so are its frames.
                direction.counts["read from a dead device"] += 1
                time.sleep(0.001)
                return

    def _write(self, end, frame):
        try:
            os.write(end, frame)
        except OSError:
            self._ways[end][0].counts["written to a dead device"] += 1

    def _obey(self):
        """False at the end of the input."""
        data = os.read(sys.stdin.fileno(), 65536)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            wish = json.loads(line)
            if "counts" in wish:
                print(json.dumps({f"{name} {way}": direction.counts for name, both in self._directions.items()
                                  for way, direction in zip(("there", "back"), both)}), flush=True)
                continue
            for way, direction in zip(("there", "back"), self._directions[wish["cable"]]):
                direction.line = Line(**wish[way])
            print("{}", flush=True)
        return bool(data)


def main():
    pairs = {}
    for argument in sys.argv[2:]:
        name, first, second = argument.split(":")
        pairs[name] = (first, second)
    cables = Cables(sys.argv[1], pairs)
    print("{}", flush=True)
    cables.run()


if __name__ == "__main__":
    main()
