"""The command line: exit statuses, output, reproduction."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from equiv import __version__, cli, conv, tables
from equiv.cli.verify import DTYPES as CLI_DTYPES
from equiv.ladder.evidence import Evidence, Verdict
from equiv.ladder.floating import DTYPES

MODULE = """
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

class Detached(Slow):
    def forward(self, x):
        return super().forward(x.detach())

class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return (x * self.gain).relu()

def add():
    return lambda x, y: x + y

def add_reversed():
    return lambda x, y: y + x

def needs_argument(x):
    return x

def gives_number():
    return 3

constant = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory to work in with a user's module ``mine``; and no real third-party peers, which take long."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("equiv.peers.PEERS", (), raising=False)
    yield
    sys.modules.pop("mine", None)


def equiv(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments, prog_name="equiv")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(path: str = "out.json") -> list[dict[str, Any]]:
    return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=pytest.fail)["rows"]


def user(candidate: str, reference: str = "mine:Slow", *more: str) -> tuple[str, ...]:
    return "verify", candidate, "--against", reference, "--input", "2x3x8", *more


# Verdicts and exit statuses


@pytest.mark.parametrize(
    ("arguments", "status", "verdict"),
    [
        (user("mine:Fast"), 0, "EQUAL"),
        (user("mine:Wrong"), 1, "DIFFERENT"),
        (user("mine:Detached"), 1, "DIFFERENT"),
        (user("mine:Detached", "mine:Slow", "--forward-only"), 0, "EQUAL"),
        (user("mine:Renamed"), 2, "UNKNOWN"),
        (user("mine:Renamed", "mine:Slow", "--weights", "own"), 0, "EQUAL"),
        (user("mine:Wrong", "mine:Slow", "--weights", "own"), 1, "DIFFERENT"),
        (user("mine:add", "mine:add_reversed", "--input", "8"), 0, "EQUAL"),
        (user("mine:needs_argument"), 2, "UNKNOWN"),
        (user("mine:gives_number"), 2, "UNKNOWN"),
    ],
)
def test_modules_of_the_user(arguments: tuple[str, ...], status: int, verdict: str) -> None:
    result = equiv(*arguments, "--json", "out.json", "--seed", "3")
    assert result.exit_code == status, result.output
    assert [row["verdict"] for row in rows()] == [verdict] * 4
    assert [row["dtype"] for row in rows()] == list(DTYPES)
    counts = {name: 4 * (name == verdict) for name in ("EQUAL", "DIFFERENT", "UNKNOWN")}
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    assert re.fullmatch(rf"4 checks: {summary} \(\d+\.\d s, seed 3\)", result.stdout.splitlines()[-1])
    for row in rows():
        assert (f"  {row['reason']}\n  reproduce: {row['reproduce']}\n" in result.stdout) == (verdict != "EQUAL")


def test_a_witness_is_printed() -> None:
    result = equiv(*user("mine:Wrong"), "--dtype", "float32")
    assert re.search(r"DIFFERENT mine:Wrong vs mine:Slow, float32 on cpu\n  .*: got .*, expected .*\n", result.stdout)


def test_unknown_lists_the_names_and_proposes_own_weights() -> None:
    result = equiv(*user("mine:Renamed"), "--dtype", "float32")
    assert "only in the candidate: ['gain (8,)'], only in the reference: ['scale (8,)']" in result.stdout
    assert "; --weights own compares" in result.stdout


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ("mine:needs_argument", "mine:needs_argument() failed: TypeError: needs_argument() missing 1 required"),
        ("mine:gives_number", "`mine:gives_number()`=3, but should be a module or function of tensors"),
    ],
)
def test_callables_that_make_no_module(candidate: str, reason: str) -> None:
    assert reason in equiv(*user(candidate)).stdout


def fake_subject(verdicts: dict[str, str]) -> Callable[..., Evidence]:
    def check(dtype, device, seed, gradients):
        verdict = Verdict[verdicts[str(dtype).removeprefix("torch.")]]
        numbers = {"largest deviation": float("inf"), "tolerance": float("nan"), "seconds": 0.0}
        reason = "" if verdict is Verdict.EQUAL else "said [bold]so[/bold] [0]"
        return Evidence(verdict, "f equals g", "here", numbers=numbers, reason=reason)

    return check


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The verdicts by dtype of a peer called ``fake``."""
    verdicts = dict.fromkeys(DTYPES, "EQUAL")

    class Peer:
        name, slug, check = "fake peer", "fake", staticmethod(fake_subject(verdicts))

    monkeypatch.setattr("equiv.peers.PEERS", (Peer,), raising=False)
    return verdicts


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ({}, 0),
        ({"float32": "DIFFERENT"}, 1),
        ({"float16": "UNKNOWN"}, 2),
        ({"float64": "UNKNOWN", "float32": "DIFFERENT"}, 1),
    ],
)
def test_one_difference_decides_then_one_unknown(fake: dict[str, str], verdicts: dict[str, str], status: int) -> None:
    fake.update(verdicts)
    result = equiv("verify", "fake", "--json", "out.json")
    assert result.exit_code == status
    assert [row["verdict"] for row in rows()] == list(fake.values())
    assert ("said [bold]so[/bold] [0]" in result.stdout) == bool(verdicts)


class Wrong(conv.LinearAttention):
    def forward(self, x):
        return super().forward(x).roll(1, 1)


def test_a_broken_operator_fails_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "LinearAttention", Wrong)
    result = equiv("verify", "LinearAttention", "Involution2d", "--dtype", "bfloat16")
    assert result.exit_code == 1
    assert re.search(r"^LinearAttention +bfloat16 +cpu +DIFFERENT ", result.stdout, re.MULTILINE)
    assert re.search(r"^Involution2d +bfloat16 +cpu +EQUAL ", result.stdout, re.MULTILINE)
    assert "2 checks: 1 EQUAL, 1 DIFFERENT, 0 UNKNOWN" in result.stdout


# Reproduction


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "LinearAttention", "DynamicDepthwiseConv2d", "--dtype", "bfloat16", "--dtype", "float32"),
        ("verify", "Involution2d", "--dtype", "float16", "--forward-only"),
        user("mine:Wrong", "mine:Slow", "--dtype", "float16", "--weights", "own"),
        user("mine:add", "mine:add_reversed", "--input", "1x8", "--dtype", "bfloat16"),
    ],
)
def test_reproduce_gives_the_same_numbers(arguments: tuple[str, ...]) -> None:
    equiv(*arguments, "--json", "first.json")
    first = rows("first.json")
    assert first
    for row in first:
        words = shlex.split(row["reproduce"])
        assert words[0] == "equiv"
        equiv(*words[1:], "--json", "again.json")
        (again,) = rows("again.json")
        for evidence in (row, again, *row["parts"], *again["parts"]):
            evidence["numbers"].pop("seconds")
        assert again == row
    equiv(*arguments, "--json", "other.json")
    assert rows("other.json")[0]["numbers"] != first[0]["numbers"]  # another seed


# Usage


@pytest.mark.parametrize("text", ["", "x", "2x0", "2x-1", "2,3", "2 x 3", "2x3x", "x2", "02x3", "2.0", "٣x3", "2X3"])
def test_bad_input_shapes(text: str) -> None:
    result = equiv("verify", "mine:Fast", "--against", "mine:Slow", "--input", text)
    assert result.exit_code == 2
    expected = f"`--input`={text!r}, but should be positive integers joined by x, such as 2x197x384 [equiv verify]"
    assert expected in result.stderr
    assert result.stdout == ""


USAGE = {
    ("verify", "GlobalAtention"): "`PAIR`='GlobalAtention', but should be GlobalAttention",
    ("verify", "mine:Fast"): "your own modules need PAIR, --against and at least one --input",
    ("verify", "--input", "2"): "your own modules need",
    ("verify", "--weights", "own"): "your own modules need",
    ("verify", "--against", "mine:Slow", "--input", "2"): "--against needs one PAIR",
    ("verify", "mine:Fast", "--against", "mine:Slow"): "--against needs one PAIR",
    ("verify", "mine:A", "mine:B", "--against", "mine:Slow", "--input", "2"): "--against needs one PAIR",
    user("mine"): "`PAIR`='mine', but should be package.module:callable [equiv verify]",
    user("mine:"): "`PAIR`='mine:', but should be package.module:callable",
    user("mine:Nothing"): "that can be imported (AttributeError: module 'mine' has no attribute 'Nothing')",
    user("yours:Fast"): "that can be imported (ModuleNotFoundError: No module named 'yours')",
    user("mine:constant"): "`PAIR`='mine:constant', but should be package.module:callable; this is of type int",
    user("mine:Fast", "mine:Gone"): "`--against`='mine:Gone', but should be",
    ("verify", "--dtype", "float8"): "Invalid value for '--dtype'",
    ("verify", "--seed", "-1"): "Invalid value for '--seed'",
    ("verify", "--seed", "one"): "Invalid value for '--seed'",
    ("verify", "--json", "no/such.json"): "`--json`='no/such.json', but should be a file that can be written",
    ("verify", "--json", "."): "`--json`='.', but should be a file that can be written",
    ("table",): "Missing argument 'NUMBER'",
    ("table", "4"): "`NUMBER`='4', but should be 1, 2 or 3",
    ("table", "1", "--json", "-", "--markdown"): "--json and --markdown exclude each other",
    ("explain",): "No such command 'explain'",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = equiv(*arguments)
    assert result.exit_code == 2
    assert USAGE[arguments] in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_absent_device_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = equiv("verify", "--device", "cuda")
    assert result.exit_code == 2
    assert "`--device`='cuda', but should be a device of this machine: cpu" in result.stderr


def test_version() -> None:
    assert equiv("--version").stdout == f"equiv, version {__version__}\n"


def test_dtypes_are_those_of_the_rung() -> None:
    assert tuple(DTYPES) == CLI_DTYPES


def test_a_defect_of_ours_does_not_exit_with_the_status_of_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiv.verify.jobs", lambda *_: 1 / 0)
    result = equiv("verify")
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr


# Output


def test_json(fake: dict[str, str]) -> None:
    import torch

    fake["float32"] = "DIFFERENT"
    result = equiv("verify", "LinearAttention", "fake", "--json", "out.json", "--seed", "7")
    assert result.exit_code == 1
    data = json.loads(Path("out.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert list(data) == ["version", "torch", "seed", "verdict", "rows"]
    assert data | {"rows": 0} == {
        "version": __version__,
        "torch": torch.__version__,
        "seed": 7,
        "verdict": "DIFFERENT",
        "rows": 0,
    }
    assert [(row["subject"], row["dtype"], row["device"]) for row in data["rows"]] == [
        (name, dtype, "cpu") for name in ("LinearAttention", "fake peer") for dtype in DTYPES
    ]
    keys = {"claim", "scope", "assumptions", "numbers", "seed", "reproduce", "reason", "parts"}
    assert all(keys < row.keys() for row in data["rows"])
    assert data["rows"][-1]["numbers"] == {"largest deviation": "inf", "tolerance": "nan", "seconds": 0.0}
    assert len(data["rows"][0]["parts"]) == 6
    assert sorted(os.listdir()) == ["mine.py", "out.json"]  # and no temporary file


def test_json_to_standard_output_is_alone_there(fake: dict[str, str]) -> None:
    fake["float16"] = "UNKNOWN"
    result = equiv("verify", "fake", "--json", "-")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"] == "UNKNOWN"
    assert "4 checks: 3 EQUAL, 0 DIFFERENT, 1 UNKNOWN" in result.stderr


def test_json_is_written_whole_or_not_at_all(fake: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.json").write_text("before")

    def full(self, *_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    result = equiv("verify", "fake", "--json", "out.json")
    assert result.exit_code == 2
    assert "disk full" in result.stderr
    assert Path("out.json").read_text() == "before"
    assert sorted(os.listdir()) == ["mine.py", "out.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_json_to_a_pipe_or_device_does_not_replace_it() -> None:
    os.mkfifo("pipe")  # never a real device here: were the code wrong, root would lose /dev/null
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert equiv("table", "1", "--json", "pipe").exit_code == 0
    assert len(json.loads(os.read(reader, 65536))) == len(tables.table1())
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_quiet_prints_failures_and_the_summary(fake: dict[str, str]) -> None:
    assert re.fullmatch(r"4 checks: 4 EQUAL.*\n", equiv("verify", "fake", "--quiet").stdout)
    fake["bfloat16"] = "DIFFERENT"
    lines = equiv("verify", "fake", "--quiet", "--seed", "1").stdout.splitlines()
    assert lines[:4] == [
        "DIFFERENT fake peer, bfloat16 on cpu",
        "  said [bold]so[/bold] [0]",
        "  reproduce: equiv verify fake --dtype bfloat16 --device cpu --seed 1",
        "",
    ]
    assert len(lines) == 5


def test_notes_stand_below_the_table(fake: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiv.verify.devices", lambda: ("cpu", "mps"))
    lines = equiv("verify", "fake").stdout.splitlines()
    assert lines[-2] == "float64 does not exist on mps: not checked there"
    assert lines[-1].startswith("7 checks: 7 EQUAL")


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_nothing_is_cut_off_whatever_the_width(
    fake: dict[str, str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    fake["float64"] = "DIFFERENT"
    printed = equiv("verify", "DynamicDepthwiseConv2d", "fake", "--dtype", "float64", "--dtype", "bfloat16").stdout
    printed += equiv("table", "1").stdout
    assert "…" not in printed
    assert "\x1b" not in printed
    assert re.search(r"^fake peer +float64 +cpu +DIFFERENT +inf +nan +0\.0 s$", printed, re.MULTILINE)
    assert re.search(r"^Swin Transformer +Dynamic +Hard \(local window\) +paired d→w²→d +1×1 *$", printed, re.MULTILINE)
