"""The built programs, as deployment files call them."""
import functools
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ["BATON_BIN_DIR"])
SERVERS = ("baton-gateway", "baton-prefill", "baton-decode")


@functools.lru_cache(None)
def flags(program):
    """What --help lists."""
    text = subprocess.run([BIN_DIR / program, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def check_flags(program, arguments, where):
    """Every flag is one of the program's."""
    used = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
    assert used, f"{where}: no flags"
    for flag in used:
        assert flag in flags(program), f"{where}: {program} has no {flag}"


def flag_value(arguments, flag):
    for i, argument in enumerate(arguments):
        if argument == flag:
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None
