"""What goes wrong in a fleet under chaos.py: workers that are killed, hung or drained, hosts that are cut off or slow, bad
cables. Needs tests/e2e on the path."""
import collections
import threading
import time

from cable import Line
from process import wait_until

# Longer than keepalives and connections' own patience; in short runs nothing else would happen.
LONG_SILENCE_SECONDS = (16, 35)
LONG_SHARE = 0.2


class Faults:
    """Disturbs the workers of one role, one at a time, or the gateway's cable."""

    def __init__(self, fleet, hosts, role, chance, long):
        """`long`: a single disturbance may take half a minute."""
        self.counts = collections.Counter()
        self.error = None
        self._long = long
        self._fleet, self._hosts, self._role, self._chance = fleet, hosts, role, chance
        self._over = threading.Event()
        self._quiet = threading.Event()
        # A daemon, and not joined before the fleet has gone: processes die with the thread that started them.
        threading.Thread(target=self._run, daemon=True).start()

    def _workers(self):
        return self._fleet.prefills if self._role == "prefill" else self._fleet.decodes

    def _all_serve(self):
        return self._role == "gateway" or self._fleet.serving(self._role) == len(self._workers())

    def _kinds(self):
        cable_kinds = [self._lose, self._delay, self._shuffle]
        if self._role == "gateway":
            return cable_kinds
        kinds = [self._kill, self._hang, self._drain]
        if self._hosts is not None:
            kinds += [self._cut, self._separate, self._slow]
            if self._hosts.has_cables:
                kinds += cable_kinds + ([self._silence] if self._long else [])
        return kinds

    def _run(self):
        kinds = self._kinds()
        left = []
        try:
            while not self._over.wait(self._chance.uniform(0.3, 2)):
                # Whoever was disturbed last is back: there is always one to go on with.
                wait_until(self._all_serve, f"all {self._role} workers serve", timeout=60)
                number = 0 if self._role == "gateway" else self._chance.randrange(len(self._workers()))
                # All of them before any comes again.
                left = left or self._chance.sample(kinds, len(kinds))
                kind = left.pop()
                kind(number)
                self.counts[kind.__name__[1:]] += 1
        except Exception as error:  # pylint: disable=broad-except
            self.error = error
        self._quiet.set()
        threading.Event().wait()

    def _kill(self, number):
        worker = self._workers()[number]
        worker.kill()
        time.sleep(self._chance.uniform(0, 2))
        worker.restart()

    def _hang(self, number):
        worker = self._workers()[number]
        worker.stop()
        try:
            time.sleep(self._some_seconds())
        finally:
            worker.go_on()

    def _drain(self, number):
        worker = self._workers()[number]
        worker.terminate()
        worker.restart()

    def _some_seconds(self):
        """Mostly hardly longer than the stall timeout."""
        if self._long and self._chance.random() < LONG_SHARE:
            return self._chance.uniform(*LONG_SILENCE_SECONDS)
        return self._chance.uniform(0.5, 7)

    def _host(self, number):
        """Each has a worker of every model."""
        return f"{self._role[0]}{number % 2}"

    def _while_disturbed(self, host, seconds):
        try:
            time.sleep(seconds)
        finally:
            self._hosts.heal(host)

    def _cut(self, number):
        host = self._host(number)
        self._hosts.cut(host)
        self._while_disturbed(host, self._some_seconds())

    def _separate(self, number):
        host = self._host(number)
        other = f"{'d' if self._role == 'prefill' else 'p'}{self._chance.randrange(2)}"
        self._hosts.separate(host, other)
        try:
            time.sleep(self._some_seconds())
        finally:
            self._hosts.join(host, other)

    def _slow(self, number):
        host = self._host(number)
        self._hosts.slow(host)
        self._while_disturbed(host, self._chance.uniform(1, 7))

    def _with_bad_cable(self, number, lines, seconds):
        """`lines`: for what goes to the host, and what comes from it."""
        host = self._host(number)
        self._hosts.disturb(host, *lines)
        self._while_disturbed(host, seconds)

    def _directions(self, make):
        """A bad line in both directions or in one."""
        which = self._chance.choice(["both", "to", "from"])
        return [make() if which in ("both", way) else Line() for way in ("to", "from")]

    def _most(self, limit):
        """Everybody suffers from the gateway's cable."""
        return limit / 4 if self._role == "gateway" else limit

    def _lose(self, number):
        lines = self._directions(lambda: Line(loss=self._most(0.2) * self._chance.uniform(0.1, 1)))
        self._with_bad_cable(number, lines, self._chance.uniform(2, 10))

    def _delay(self, number):
        def make():
            delay = self._most(0.2) * self._chance.uniform(0.1, 1)
            return Line(delay=delay, jitter=delay * self._chance.random())
        self._with_bad_cable(number, self._directions(make), self._chance.uniform(2, 10))

    def _shuffle(self, number):
        lines = self._directions(lambda: Line(reorder=self._chance.uniform(0.05, 0.3),
                                              reorder_delay=self._most(0.1) * self._chance.uniform(0.01, 1),
                                              duplicate=self._chance.uniform(0.05, 0.3)))
        self._with_bad_cable(number, lines, self._chance.uniform(2, 10))

    def _silence(self, number):
        self._with_bad_cable(number, self._directions(lambda: Line(loss=1)), self._chance.uniform(*LONG_SILENCE_SECONDS))

    def end(self):
        """No more faults from now on."""
        self._over.set()
        self._quiet.wait()
