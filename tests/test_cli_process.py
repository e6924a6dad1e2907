"""The command line as a process: exit statuses, start-up, and a terminal with its progress bar and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

MODULE = """
import pathlib, time
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return (self.scale * x).relu()

class Fast(Slow):
    def forward(self, x):
        return torch.where(x * self.scale > 0, self.scale * x, 0.0)

class Wrong(Slow):
    def forward(self, x):
        return (x * self.scale).abs()

class Sleepy(Slow):
    def forward(self, x):
        pathlib.Path("running").touch()
        time.sleep(120)

def without_parameters():
    return torch.relu
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory to work in with a user's module ``mine``."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def user(candidate: str, *more: str) -> tuple[str, ...]:
    return "verify", candidate, "--against", "mine:Slow", "--input", "2x3x8", *more


def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """A process of its own, as a shell starts it."""
    code = "import sys; from equiv.cli import main; sys.argv[0] = 'equiv'; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, **options)


@pytest.mark.parametrize(("candidate", "status"), [("mine:Fast", 0), ("mine:Wrong", 1), ("mine:without_parameters", 2)])
def test_exit_status_of_the_process(candidate: str, status: int) -> None:
    process = start(*user(candidate, "--dtype", "float32"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err == ""
    assert "\x1b" not in out


def test_help_and_usage_errors_import_neither_torch_nor_rich() -> None:
    code = """
import sys
from equiv.cli import main
for arguments, status in (
    (["--help"], 0), (["--version"], 0), (["verify", "--help"], 0), (["table", "--help"], 0), (["frobnicate"], 2),
    (["verify", "--input", "2"], 2), (["verify", "a:b", "--against", "a:c", "--input", "0"], 2), (["table", "4"], 2),
    (["verify", "--json", "no/such.json"], 2), (["verify", "--dtype", "int8"], 2),
    (["train", "--help"], 0), (["train", "parity", "--help"], 0), (["train", "parity", "--plot", "x.pdf"], 2),
    (["verify", "--json", "no/such.json"], 2), (["verify", "--dtype", "int8"], 2), (["profile", "--help"], 0),
    (["profile"], 2), (["profile", "vit_tiny", "--steps", "0"], 2), (["profile", "vit_tiny", "--json", "no/such"], 2),
):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == status, (arguments, end.code)
    assert not {"torch", "rich", "numpy"} & sys.modules.keys(), arguments
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, timeout=60)


# A terminal


def on_a_terminal(arguments: tuple[str, ...], columns: int, until: Callable[[], bool] | None = None) -> tuple[int, str]:
    """Exit status and all that a terminal got; SIGINT is sent when ``until`` is true."""
    import fcntl
    import pty
    import struct
    import termios

    def as_a_shell_does() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    options = {"env": environment, "preexec_fn": as_a_shell_does}
    process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    os.set_blocking(ours, False)
    got, sent, deadline = b"", False, time.monotonic() + 60
    while True:
        ended = process.poll() is not None
        try:
            chunk = os.read(ours, 65536)
        except BlockingIOError:
            chunk = b""
        except OSError:  # the other end is closed
            break
        got += chunk
        if ended and not chunk:
            break
        if until is not None and not sent and until():
            process.send_signal(signal.SIGINT)
            sent = True
        assert time.monotonic() < deadline, got.decode()
        time.sleep(0.01)
    os.close(ours)
    return process.wait(), got.decode().replace("\r\n", "\n")


needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@needs_terminal
def test_interrupt_leaves_one_line() -> None:
    arguments = user("mine:Sleepy")
    status, got = on_a_terminal(arguments, 80, until=Path("running").exists)
    assert status == 130
    assert "mine:Sleepy" in got  # the progress bar was there
    assert "Traceback" not in got
    assert got.endswith("\x1b[2KInterrupted.\n")  # and its line was erased
    assert got.count("\x1b[?25h") >= got.count("\x1b[?25l") > 0  # the cursor is shown again


@needs_terminal
def test_terminal_gets_a_coloured_table_within_80_columns() -> None:
    status, got = on_a_terminal(user("mine:Fast"), 80)
    assert status == 0
    table = got.rpartition("\x1b[2K")[2]  # after the progress bar was erased
    assert "\x1b[32mEQUAL" in table
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", table).splitlines()
    assert sum(bool(re.match(r"mine:Fast vs mine:Slow +\w+ +cpu +EQUAL ", line)) for line in lines) == 4
    assert max(map(len, lines)) <= 80
    assert "…" not in table
