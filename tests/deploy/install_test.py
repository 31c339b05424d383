"""`cmake --install`: what lands where, systemd's opinion of the units, and their flags."""
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess

import pytest

import programs

BUILD_DIR = pathlib.Path(os.environ["BATON_BUILD_DIR"])
UNITS = {"gateway": "baton-gateway.service", "prefill": "baton-prefill@.service", "decode": "baton-decode@.service"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The installed files below a root of their own, and the prefix that the build was configured with."""
    root = tmp_path_factory.mktemp("root")
    result = subprocess.run(["cmake", "--install", BUILD_DIR], env={**os.environ, "DESTDIR": str(root)},
                            capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    return root


def one(tree, name):
    found = list(tree.rglob(name))
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def test_everything_is_there(tree):
    for name in ("baton", *programs.SERVERS):
        assert os.access(next(path for path in tree.rglob(name) if path.is_file()), os.X_OK)
    for name in ("deployment.md", "rules.yml", "baton-overview.json", "inference.proto", "gateway.conf"):
        one(tree, name)
    for model in ("tiny-gemma2", "tiny-recurrentgemma"):
        directory = one(tree, model)
        for path in (programs.ROOT / "deploy" / "models" / model).iterdir():
            assert (directory / path.name).read_bytes() == path.read_bytes()
    assert not list(tree.rglob("*_test")) and not list(tree.rglob("bench_*"))


def test_units_and_their_configuration(tree):
    addresses = {}
    for role, unit in UNITS.items():
        text = one(tree, unit).read_text()
        assert "@CMAKE" not in text and "@BATON" not in text
        program = re.search(r"^ExecStart=(\S+) \$BATON_FLAGS$", text, re.M)[1]
        assert (tree / program.lstrip("/")).name == f"baton-{role}" and (tree / program.lstrip("/")).is_file()
        config = re.search(r"^EnvironmentFile=(\S+)$", text, re.M)[1].replace("%i", "tiny-gemma2")
        lines = [line for line in (tree / config.lstrip("/")).read_text().splitlines() if not line.startswith("#")]
        assert len(lines) == 1
        arguments = shlex.split(re.fullmatch(r'BATON_FLAGS="(.*)"', lines[0])[1])
        programs.check_flags(f"baton-{role}", arguments, config)
        addresses[role] = programs.flag_value(arguments, "--listen")
        if role == "gateway":
            gateway = arguments
        else:
            model = programs.flag_value(arguments, "--model")
            assert (tree / model.lstrip("/") / "config.json").is_file()
        # `systemctl start` waits for what test_systemd_is_told looks at.
        assert re.search(r"^Type=notify$", text, re.M)
        # A drain must be over before systemd loses patience.
        assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1]) > 30
    for role in ("prefill", "decode"):
        assert programs.flag_value(gateway, f"--{role}-worker") == addresses[role]


@pytest.mark.parametrize("program", ["baton", "baton-gateway"])
def test_only_workers_load_what_computes(program):
    """OpenBLAS starts threads of its own in every program that maps it."""
    libraries = subprocess.run(["ldd", programs.BIN_DIR / program], capture_output=True, text=True, check=True).stdout
    assert "libgrpc" in libraries and "blas" not in libraries


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tree):
    for unit in UNITS.values():
        path = one(tree, unit)
        # The system's own units, which ours refer to, are not below that root.
        for target in ("network-online.target", "multi-user.target", "sysinit.target", "basic.target", "shutdown.target"):
            (path.parent / target).write_text("[Unit]\nDescription=x\n")
        result = subprocess.run(["systemd-analyze", "verify", f"--root={tree}", "--man=no", path.name],
                                capture_output=True, text=True, timeout=60)
        complaints = [line for line in result.stderr.splitlines() if "baton" in line]
        assert not complaints, complaints


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_units_are_hardened(tree):
    for unit in UNITS.values():
        path = one(tree, unit)
        instance = path.with_name(path.name.replace("@.", "@x."))
        if instance != path:
            shutil.copy(path, instance)
        # 0 is best, 10 worst; what is left is the network and the shared user namespace.
        result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=25", f"--root={tree}",
                                 instance.name], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "OK" in result.stdout


@pytest.mark.parametrize("role", ["gateway", "decode"])
def test_systemd_is_told(role, tmp_path):
    """Each program says when it serves, not before, and at SIGTERM how long it may take."""
    flags = {"gateway": ["--prefill-worker", "127.0.0.1:1", "--decode-worker", "127.0.0.1:1"],
             "decode": ["--model", programs.ROOT / "deploy" / "models" / "tiny-gemma2", "--memory", "64MiB"]}[role]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        process = subprocess.Popen([programs.BIN_DIR / f"baton-{role}", *flags, "--listen", "127.0.0.1:0", "--metrics",
                                    "127.0.0.1:0", "--grace", "100"], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            assert manager.recv(1000) == b"READY=1"
            assert process.stdout.readline().startswith("READY ")
            process.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=160000000"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()
