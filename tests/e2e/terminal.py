"""A program on a terminal, as the person in front of it has it."""
import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

from process import BIN_DIR


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class OnTerminal:
    """`baton`, or another program, on a pseudo terminal of its own, so that Ctrl-C is a key."""

    def __init__(self, environment, *arguments, program=BIN_DIR / "baton", rows=24, columns=80):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            resize(0, rows, columns)
            os.execve(program, [os.path.basename(program), *map(str, arguments)], environment)
        # Characters may arrive in pieces.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.screen = ""
        self.seen = 0

    def wait_for(self, text, timeout=30):
        deadline = time.monotonic() + timeout
        while text not in self.screen[self.seen:]:
            readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"not on the screen: {text!r}\n{self.screen}"
            try:
                self.screen += self.decoder.decode(os.read(self.fd, 4096))
            except OSError:
                raise AssertionError(f"ended without {text!r}\n{self.screen}") from None
        self.seen = self.screen.index(text, self.seen) + len(text)

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def exit_code(self):
        while True:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                break
            if not data:
                break
            self.screen += self.decoder.decode(data)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)
