"""What the README shows is what happens."""

from __future__ import annotations

import pathlib
import re

import pytest

from equiv.errors import NotEquivalent

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PROGRAM, OPTIONS, MODELS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
OUTPUT, BUG, TABLE = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)[:3]
NUMBER = re.compile(r"\d[\d.]*(e[-+]\d+)?")


def masked(text):
    """Lines of text with numbers as #: digits differ between machines and seeds, words must not."""
    return [NUMBER.sub("#", line.rstrip()) for line in text.splitlines()]


def without_worst(lines):
    """Lines but for those that name the worst tensor and element, which vary with the seed."""
    return [line for line in lines if "worst" not in line]


def run(program):
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})


def test_program_and_output(capsys):
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 12
    run(PROGRAM)
    printed = capsys.readouterr().out
    assert without_worst(masked(printed)) == without_worst(masked(OUTPUT))
    assert printed.startswith("EQUAL")


def test_the_bug_that_it_names():
    wrong = PROGRAM.replace("dot_product_attention(q, k, v)", "dot_product_attention(q, k, v, scale=384**-0.5)")
    assert wrong != PROGRAM
    with pytest.raises(NotEquivalent) as caught:
        run(wrong)
    expected = masked(BUG)
    assert masked(f"equiv.errors.NotEquivalent: {caught.value}")[:1] == expected[:1]
    assert without_worst(masked(str(caught.value)))[1:] == without_worst(expected[1:])


def test_options():
    run(OPTIONS)


def test_models():
    run(MODELS)


def test_table():
    from equiv.tables import table1

    for row in table1():
        line = next(line for line in TABLE.splitlines() if line.startswith(f"{row.method} "))
        assert line.removeprefix(row.method).split() == " ".join((row.bank, row.selection, row.type, row.size)).split()


def test_every_operator_is_named():
    from equiv.catalogue import PAIRS

    for pair in PAIRS:
        assert f"`{pair.name}`" in README
