"""Several hosts on one machine: a network namespace for each, on one bridge, that can be cut off, kept from each other,
slowed down, and given bad cables.

    network = Network(["p0", "d0"])           # needs root
    network.place("p0")                       # {"host": ..., "launcher": [...]}: where a Process goes
    network.cut("p0"); network.heal("p0")
    if network.has_cables: network.disturb("p0", to_host=Line(loss=0.1), from_host=Line(delay=0.05)); network.heal("p0")
    network.close()

What goes to a host that is off the bridge is dropped, without a word to either end: what a dead switch does. Slow links are
token buckets, which also drop. Hosts hang on the bridge by cables made in user space (cable.py: the kernel need not have
netem), or by plain veth pairs where TAP devices are not to be had.
"""
import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading

import cable
from cable import Line


def run(*command, check=True):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.decode().strip()}")
    return done.returncode == 0


def available():
    """Whether this process may make namespaces and bridges."""
    if os.geteuid() != 0:
        return False
    name = f"btn{os.getpid()}"
    made = False
    try:
        made = run("ip", "netns", "add", name, check=False)
        return made and run("ip", "link", "add", name, "type", "bridge", check=False)
    except OSError:
        return False
    finally:
        if made:
            run("ip", "link", "del", name, check=False)
            run("ip", "netns", "del", name, check=False)


class Network:
    def __init__(self, hosts, cables=True, seed=0):
        """`seed`: of what bad cables do."""
        # Several may run at a time: names and addresses are this process's own.
        number = os.getpid()
        self._prefix = f"b{number}"
        self._bridge = f"{self._prefix}br"
        self._subnet = f"10.{64 + number // 250 % 64}.{number % 250}"
        self._hosts = []
        self._cables = None
        self._cables_lock = threading.Lock()
        # Why there are none.
        self.no_cables = cable.unavailable() if cables else "not asked for"
        try:
            if not self.no_cables:
                self._start_cables(hosts, seed)
            run("ip", "link", "add", self._bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self._subnet}.1/24", "dev", self._bridge)
            run("ip", "link", "set", self._bridge, "up")
            for host in hosts:
                self._add(host)
        except BaseException:
            self.close()
            raise

    def _add(self, host):
        space, port = self._space(host), self._port(host)
        run("ip", "netns", "add", space)
        self._hosts.append(host)
        if self.has_cables:
            run("ip", "link", "set", self._far_end(host), "netns", space, "name", "eth0")
        else:
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", port, "master", self._bridge)
        run("ip", "link", "set", port, "up")
        run("ip", "-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", "eth0", "up")

    @property
    def has_cables(self):
        return self._cables is not None

    def _start_cables(self, hosts, seed):
        program = pathlib.Path(cable.__file__)
        pairs = [f"{host}:{self._port(host)}:{self._far_end(host)}" for host in hosts]
        self._cables = subprocess.Popen([sys.executable, str(program), str(seed), *pairs], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self._cables_answer()

    def _cables_answer(self):
        line = self._cables.stdout.readline()
        if not line:
            raise RuntimeError("the process with the cables ended")
        return json.loads(line)

    def _ask_cables(self, **wish):
        with self._cables_lock:
            self._cables.stdin.write(json.dumps(wish).encode() + b"\n")
            self._cables.stdin.flush()
            return self._cables_answer()

    def _far_end(self, host):
        """The host's end of its cable, before it is called eth0 there."""
        return f"{self._prefix}{host}x"

    def _space(self, host):
        return f"{self._prefix}{host}"

    def _port(self, host):
        return f"{self._prefix}{host}"

    def address(self, host):
        return f"{self._subnet}.{10 + self._hosts.index(host)}"

    def place(self, host):
        return {"host": self.address(host), "launcher": ["ip", "netns", "exec", self._space(host)]}

    def cut(self, host):
        """From everyone. Nobody is told."""
        run("ip", "link", "set", self._port(host), "nomaster")

    def separate(self, host, other):
        """From each other only."""
        self._isolate((host, other), "on")

    def join(self, host, other):
        self._isolate((host, other), "off")

    def _isolate(self, hosts, how):
        for host in hosts:
            # One that is cut off just now is apart from everyone.
            run("ip", "link", "set", "dev", self._port(host), "type", "bridge_slave", "isolated", how, check=False)

    def slow(self, host, kilobits=4000):
        for command in (["tc"], ["tc", "-n", self._space(host)]):
            device = self._port(host) if len(command) == 1 else "eth0"
            run(*command, "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{kilobits}kbit", "burst", "16kb",
                "latency", "200ms")

    def disturb(self, host, to_host=Line(), from_host=Line()):
        """Bad cables; frames already on their way are not concerned."""
        self._ask_cables(cable=host, there=dataclasses.asdict(to_host), back=dataclasses.asdict(from_host))

    def frames(self):
        """What happened to those that cables carried so far: {"frames": 1000, "lost": 10, ...}"""
        total = collections.Counter()
        if self.has_cables:
            for counts in self._ask_cables(counts=True).values():
                total.update(counts)
        return dict(total)

    def heal(self, host):
        if self.has_cables:
            self.disturb(host)
        run("ip", "link", "set", self._port(host), "master", self._bridge)
        run("tc", "qdisc", "del", "dev", self._port(host), "root", check=False)
        run("tc", "-n", self._space(host), "qdisc", "del", "dev", "eth0", "root", check=False)

    def close(self):
        if self.has_cables:
            self._cables.stdin.close()
            self._cables.wait()
            self._cables.stdout.close()
            self._cables = None
        for host in self._hosts:
            run("ip", "netns", "del", self._space(host), check=False)
            run("ip", "link", "del", self._port(host), check=False)
        self._hosts = []
        run("ip", "link", "del", self._bridge, check=False)
