"""``equiv proofs``, ``equiv verify --rung symbolic``: rows, verdicts, exit statuses; the table of proofs/README.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from equiv import cli, symbolic
from equiv.ladder.evidence import Evidence, Verdict
from equiv.symbolic.sources import FACTS, NOTEBOOKS, THEOREMS

PROOFS = Path(__file__).parents[1] / "proofs"


def equiv(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments, prog_name="equiv")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def stub(verdicts: dict[str, Verdict]) -> Any:
    """``prove_each`` with the verdicts of identities, and of bridges by "bridge NUMBER", given; EQUAL elsewhere."""

    def evidence(name: str, claim: str) -> Evidence:
        verdict = verdicts.get(name, Verdict.EQUAL)
        reason = "" if verdict is Verdict.EQUAL else f"[bold]{name}[/bold] failed"
        return Evidence(verdict, claim, "here", numbers={"seconds": 0.0}, reason=reason)

    def prove_each(families: Sequence[Any] = symbolic.FAMILIES, *, seed: int = 0) -> Iterator[Evidence]:
        for family in families:
            parts = [evidence(i.name, i.claim) for i in family.identities]
            parts.append(evidence(f"bridge {family.number}", "the bridge"))
            found = [part for part in parts if part.reason]
            whole = evidence("", f"{family.number}. {family.title}")
            if found:
                order = [Verdict.DIFFERENT, Verdict.UNKNOWN]
                verdict = min((part.verdict for part in found), key=order.index)
                whole = dataclasses.replace(whole, verdict=verdict, reason="; ".join(p.reason for p in found))
            yield dataclasses.replace(whole, parts=tuple(parts))

    return prove_each


CASES: list[tuple[dict[str, Verdict], int]] = [
    ({}, 0),
    ({"4b": Verdict.DIFFERENT}, 1),
    ({"4b": Verdict.UNKNOWN}, 2),
    ({"4b": Verdict.UNKNOWN, "11a": Verdict.DIFFERENT}, 1),
    ({"bridge 4": Verdict.DIFFERENT}, 1),
]


def test_the_real_run_gives_the_table_of_the_readme():
    result = equiv("proofs", "--markdown")
    assert result.exit_code == 0, result.output
    printed = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(printed) == 2 + len(THEOREMS)
    assert all(line.endswith("| EQUAL | EQUAL |") for line in printed[2:])
    text = (PROOFS / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("|")] == printed
    for number, name in NOTEBOOKS.items():
        assert f"[{number:02d}]({name}.ipynb)" in text
        assert (PROOFS / f"{name}.ipynb").exists()
    for name in (name for names in THEOREMS.values() for name in names):
        assert (PROOFS / "coq" / f"{name.split('.')[0]}.v").exists()
    facts = {name for names in FACTS.values() for name in names}
    assert {name for name in facts if f"`{name}`" not in text} == {"Facts.head_cat"}  # a part of catK


@pytest.mark.parametrize(("verdicts", "status"), CASES)
def test_proofs_sums_up(monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, Verdict], status: int) -> None:
    monkeypatch.setattr(symbolic, "prove_each", stub(verdicts))
    result = equiv("proofs", "--json")
    assert result.exit_code == status
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert data["verdict"] == {0: "EQUAL", 1: "DIFFERENT", 2: "UNKNOWN"}[status]
    assert [row["identity"] for row in data["rows"]] == list(THEOREMS)
    for row in data["rows"]:
        assert row["verdict"] == verdicts.get(row["identity"], Verdict.EQUAL).value == row["evidence"]["verdict"]
        assert row["bridge"] == verdicts.get(f"bridge {row['family']}", Verdict.EQUAL).value
        assert row["coq"] == list(THEOREMS[row["identity"]])
    table = equiv("proofs")
    assert table.exit_code == status
    for name in verdicts:
        assert f"[bold]{name}[/bold] failed" in table.stdout
        assert f"[bold]{name}[/bold] failed" in result.stderr
    good = 35 - sum(not name.startswith("bridge") for name in verdicts)
    bridges = 12 - sum(name.startswith("bridge") for name in verdicts)
    summary = table.stdout.splitlines()[-1]
    assert summary.startswith(f"35 identities: {good} EQUAL, ")
    assert summary.endswith(f"; {bridges} of 12 bridges hold")


@pytest.mark.parametrize(("verdicts", "status"), CASES)
def test_the_rung_gives_a_row_for_each_family(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdicts: dict[str, Verdict], status: int
) -> None:
    monkeypatch.setattr(symbolic, "prove_each", stub(verdicts))
    path = tmp_path / "out.json"
    result = equiv("verify", "--rung", "symbolic", "--json", str(path))
    assert result.exit_code == status
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["rung"] == "symbolic"
    assert [row["subject"] for row in data["rows"]] == [f"family {number}" for number in range(1, 13)]
    assert result.stdout.splitlines()[-1].startswith("12 checks: ")
    assert ("failed" in result.stdout) == bool(verdicts)
    quiet = equiv("verify", "--rung", "symbolic", "--quiet")
    assert "Softmax: shifts" not in quiet.stdout


def test_the_rung_for_one_operator_really():
    result = equiv("verify", "--rung", "symbolic", "DynamicConv2d")
    assert result.exit_code == 0, result.output
    assert "8. D-Conv: a mixture of kernels is a mixture of convolutions EQUAL" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1].startswith("1 check: 1 EQUAL, 0 DIFFERENT, 0 UNKNOWN")


USAGE = {
    ("verify", "--rung", "magic"): "Invalid value for '--rung': 'magic' is not one of 'float', 'symbolic'",
    ("verify", "--rung", "symbolic", "Nothing"): "`PAIR`='Nothing', but should be an operator with proofs: GlobalAtt",
    ("verify", "--rung", "symbolic", "--dtype", "float32"): "--rung symbolic takes the names of operators",
    ("verify", "--rung", "symbolic", "--seed", "1"): "--rung symbolic takes the names of operators",
    ("proofs", "--json", "-", "--markdown"): "--json and --markdown exclude each other",
    ("proofs", "1a"): "Got unexpected extra argument",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = equiv(*arguments)
    assert result.exit_code == 2
    assert USAGE[arguments] in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
