"""`baton status` as a person has it: figures of a fleet at work, keys, and a terminal that is left as it was found."""
import os
import signal
import subprocess
import termios

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import exactly, tokens
from process import BIN_DIR, wait_until
from terminal import OnTerminal, resize

ENTER = "\x1b[?1049h"
LEAVE = "\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(models=[GEMMA, RECURRENT])


@pytest.fixture(scope="module")
def environment(fleet):
    return {**os.environ, "BATON_GATEWAY": fleet.gateway.address, "TERM": "xterm"}


def watch(environment, *arguments, **size):
    terminal = OnTerminal(environment, "status", *arguments, **size)
    modes = termios.tcgetattr(terminal.fd)
    terminal.wait_for(ENTER)
    terminal.wait_for("? help")
    during = termios.tcgetattr(terminal.fd)
    assert not during[3] & (termios.ICANON | termios.ECHO)
    return terminal, modes


def check_left(terminal, modes, code):
    """The program ends with that code, and has given the terminal back."""
    terminal.wait_for(LEAVE)
    assert termios.tcgetattr(terminal.fd) == modes
    assert terminal.exit_code() == code


def test_figures_of_work(fleet, environment):
    # Work is told of workers that the gateway has looked at before, which it does every second.
    uptime = fleet.fleet.GetStatus(pb.GetStatusRequest()).uptime_seconds
    wait_until(lambda: fleet.fleet.GetStatus(pb.GetStatusRequest()).uptime_seconds > uptime + 3, "workers are sampled")
    for model in (GEMMA, RECURRENT):
        fleet.generate(tokens(range(100, 300), model, stopping=exactly(20)))
    with pytest.raises(grpc.RpcError):
        fleet.generate(tokens([5], "nobodys", stopping=exactly(1)))

    def told():
        status = fleet.fleet.GetStatus(pb.GetStatusRequest(window_seconds=60))
        # Load reports come every second, and two make a rate.
        return status if all(worker.steps_per_second > 0 for worker in status.workers) else None
    status = wait_until(told, "every worker's steps are told")
    assert (status.recent.completed, status.recent.rejected, status.recent.failed) == (2, 1, 0)
    assert (status.recent.prompt_tokens, status.recent.output_tokens) == (400, 40)
    assert status.recent.time_to_first_token.count == 2
    assert status.recent.inter_token.count == 38
    assert 0 < status.recent.inter_token.p50_seconds <= status.recent.inter_token.p99_seconds
    assert [(model.model, model.recent.output_tokens) for model in status.models] == [(GEMMA, 20), (RECURRENT, 20)]
    for worker in status.workers:
        assert worker.sequences_per_step == 1
        assert worker.silent_seconds < 5
        if worker.role == "prefill":
            assert worker.cached_prompt_share == 0

    out = subprocess.run([BIN_DIR / "baton", "status", "--window", "60"], capture_output=True, text=True, env=environment,
                         timeout=60, check=True).stdout
    assert "req/s" in out and "TTFT p50" in out and "\x1b" not in out


def test_keys_and_sizes(fleet, environment):
    # Nothing but keys and sizes makes it draw again.
    terminal, modes = watch(environment, "--interval", 3600, columns=200, rows=50)
    assert "CHECKPOINTS" in terminal.screen
    terminal.type("d")
    terminal.wait_for("decode only")
    terminal.type("\x1b[C")
    terminal.wait_for("ROLE\u25b2")
    terminal.type("r")
    terminal.wait_for("ROLE\u25bc")
    terminal.type("a?")
    terminal.wait_for("this help")
    terminal.type("? ")
    terminal.wait_for("PAUSED")
    resize(terminal.fd, 10, 60)
    terminal.wait_for("gateway")
    terminal.wait_for("q leave  s sort  p d a role  ? help")
    terminal.type("q")
    check_left(terminal, modes, 0)


@pytest.mark.parametrize("how,code", [("\x03", 0), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP),
                                      (signal.SIGQUIT, -signal.SIGQUIT)])
def test_however_it_ends_the_terminal_is_given_back(fleet, environment, how, code):
    terminal, modes = watch(environment)
    if isinstance(how, str):
        terminal.type(how)
    else:
        os.kill(terminal.pid, how)
    check_left(terminal, modes, code)


def test_stopped_and_resumed_by_the_shell(fleet, environment):
    shell = OnTerminal({**environment, "PS1": "ready> "}, "--norc", "--noprofile", "--noediting", "-i",
                       program="/bin/bash")
    shell.wait_for("ready> ")
    shell.type(f"{BIN_DIR}/baton status\n")
    shell.wait_for(ENTER)
    shell.wait_for("? help")
    shell.type("\x1a")
    shell.wait_for(LEAVE)
    shell.wait_for("Stopped")
    shell.type("fg\n")
    shell.wait_for(ENTER)
    shell.wait_for("? help")
    shell.type("d")
    shell.wait_for("decode only")
    shell.type("q")
    shell.wait_for(LEAVE)
    shell.type("exit 7\n")
    assert shell.exit_code() == 7


def test_without_a_terminal_for_keys(fleet, environment):
    """Output on a terminal, input from elsewhere: it is live all the same."""
    terminal = OnTerminal(environment, "-c", f"exec {BIN_DIR}/baton status --interval 0.1 < /dev/null", program="/bin/sh")
    terminal.wait_for(ENTER)
    for _ in range(3):
        terminal.wait_for("every 0.1 s")
    terminal.type("\x03")
    assert terminal.exit_code() == 0


def test_a_dumb_terminal_gets_it_once(fleet, environment):
    terminal = OnTerminal({**environment, "TERM": "dumb"}, "status")
    assert terminal.exit_code() == 0
    assert "gateway" in terminal.screen and "\x1b" not in terminal.screen
