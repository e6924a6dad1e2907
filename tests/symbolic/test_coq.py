"""The theorems of ``proofs/coq``: accepted by Coq without axioms, complete, saying what they should, and refusable.

Skipped with a reason where Coq is missing, unless the environment has EQUIV_REQUIRE_COQ=1: then that is a failure.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from equiv.symbolic import FAMILIES
from equiv.symbolic.facts import AtLeast, Bijection
from equiv.symbolic.sources import FACTS, THEOREMS
from tests.symbolic.coq import harness
from tests.symbolic.coq.harness import CLOSED, CoqError
from tests.symbolic.coq.mutants import MUTANTS, Mutant

HERE = Path(__file__).parent / "coq"
LISTED = sorted({name for names in (*THEOREMS.values(), *FACTS.values()) for name in names})
pytestmark = pytest.mark.coq


@pytest.fixture(scope="module")
def coq() -> None:
    """Coq is there, or else the test is skipped or fails."""
    reason = harness.missing()
    if reason and os.environ.get("EQUIV_REQUIRE_COQ") == "1":
        pytest.fail(f"EQUIV_REQUIRE_COQ=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def built(coq: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files of proofs/coq, compiled."""
    target = tmp_path_factory.mktemp("coq")
    harness.build(target)
    return target


# The tables, for which Coq is not needed


def test_every_identity_and_every_fact_has_its_theorem():
    assert list(THEOREMS) == [identity.name for family in FAMILIES for identity in family.identities]
    facts = {fact for family in FAMILIES for identity in family.identities for fact in identity.facts}
    needed = {str(f.map) if isinstance(f, Bijection) else type(f).__name__ for f in facts if not isinstance(f, AtLeast)}
    assert needed - {"perm"} == {name for names in FACTS for name in names.split(", ")}


def test_every_theorem_is_in_a_table():
    assert harness.theorems() == LISTED


def test_nothing_is_asserted_without_proof():
    assert harness.forbidden() == []


def test_every_theorem_has_a_restatement():
    text = harness.code((HERE / "Statements.v").read_text(encoding="utf-8"))
    proofs = " ".join(re.findall(r"Proof\.(.*?)Qed\.", text, re.DOTALL))
    inside = {
        "Window.window_sum",
        "Softmax.softmax_by_values",
        "Softmax.one_kept",
        "Express.pixels_are_nearly_convolved",
    }
    inside |= {"Facts.roll_tokK", "Facts.roll_placeK", "Facts.head_cat", "Facts.sum_cat"}  # steps towards others
    assert {name for name in LISTED if not re.search(rf"\b{re.escape(name)}\b", proofs)} == inside
    assert not harness.FORBIDDEN.search(text)


def test_the_project_file_lists_every_file():
    first, *files = (harness.SOURCES / "_CoqProject").read_text(encoding="utf-8").split("\n")[:-1]
    assert first == "-R . Equiv"
    assert sorted(files) == sorted(path.name for path in harness.SOURCES.glob("*.v"))


def test_enough_mutants_of_enough_theorems():
    assert len(MUTANTS) >= 20
    assert len({(mutant.theorem, mutant.new, mutant.old) for mutant in MUTANTS}) == len(MUTANTS)
    for identity, names in THEOREMS.items():
        assert {mutant.theorem for mutant in MUTANTS} & set(names), identity


# What Coq says


def test_theorems_hold_without_axioms_and_say_what_they_should(built):
    assert harness.assumptions(built, LISTED) == dict.fromkeys(LISTED, CLOSED)
    (built / "Statements.v").write_text((HERE / "Statements.v").read_text(encoding="utf-8"), encoding="utf-8")
    harness.compiled(built, "Statements")


def test_wrong_statements_are_refuted(built):
    """Some mutants are not only refused but proved to be false."""
    text = (HERE / "Refuted.v").read_text(encoding="utf-8")
    lemmas = re.findall(r"^Lemma (\w+) : ~ forall", harness.code(text), re.MULTILINE)
    assert len(lemmas) >= 10
    (built / "Refuted.v").write_text(text, encoding="utf-8")
    harness.compiled(built, "Refuted")
    names = [f"Refuted.{name}" for name in lemmas]
    assert harness.assumptions(built, names) == dict.fromkeys(names, CLOSED)


def test_mutants_are_refused(built):
    by_file = collections.defaultdict(list)
    for mutant in MUTANTS:
        by_file[mutant.theorem.split(".")[0]].append(mutant)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda mutants: harness.unrefused(built, mutants), by_file.values()))
    assert [line for lines in found for line in lines] == []


# Attacks on all this


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Two of the files, to be broken."""
    for name in ("Common.v", "Linear.v"):
        shutil.copy(harness.SOURCES / name, tmp_path)
    return tmp_path


@pytest.fixture
def linear(built: Path, copy: Path) -> Path:
    """The same with the first one compiled."""
    shutil.copy(built / "Common.vo", copy)
    return copy


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def linear_proof(sources: Path) -> str:
    text = (sources / "Linear.v").read_text(encoding="utf-8")
    return text[text.index("Proof.") : text.index("Qed.") + 4]


def statements_of_linear(target: Path) -> None:
    """The part of Statements.v that is about Linear.v."""
    text = (HERE / "Statements.v").read_text(encoding="utf-8")
    text = text[: text.index("Definition values")] + text[text.index("Lemma s1a") : text.index("Lemma s2a")]
    text = re.sub(r"^From Equiv Require .*\n", "", text, flags=re.MULTILINE)
    (target / "Statements.v").write_text(
        text.replace("Set Imp", "From Equiv Require Common Linear.\nSet Imp", 1), encoding="utf-8"
    )
    harness.compiled(target, "Statements")


def test_admitted_in_code_is_found_and_in_a_comment_is_not(copy):
    change(copy / "Linear.v", "(* 1a.", '(* Admitted (* nested *) Axiom "*)" *) (* 1a.')
    assert harness.forbidden(copy) == []
    change(copy / "Linear.v", linear_proof(copy), "Admitted.")
    assert harness.forbidden(copy) == ["Linear.v: Admitted"]
    for text in ("(* a *) Axiom x : False.", "Unset Guard Checking.", '(* "*)" *) Parameter x : False.', "all: admit."):
        (copy / "Common.v").write_text(text)
        assert len(harness.forbidden(copy)) == 2, text


def test_a_comment_that_does_not_end_is_refused():
    with pytest.raises(CoqError, match="does not end"):
        harness.code("(* (* *) Axiom")


@pytest.mark.parametrize(
    "new",
    ["Admitted.", "Proof. apply: cheat. Qed."],
    ids=["admitted", "a hypothesis outside of a section"],
)
def test_print_assumptions_finds_what_is_not_proved(linear, new):
    change(linear / "Linear.v", linear_proof(linear), new)
    change(linear / "Linear.v", "Section Linear.", "Hypothesis cheat : forall P : Prop, P.\nSection Linear.")
    harness.compiled(linear, "Linear")
    answers = harness.assumptions(linear, ["Linear.linear_is_conv", "Linear.linear_after_linear"])
    assert CLOSED not in answers["Linear.linear_is_conv"]
    assert answers["Linear.linear_after_linear"] == CLOSED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Theorem linear_is_conv", "Theorem linear_is_a_conv"),
        ("(token : nat -> nat -> 'I_N) X W b y x o :", "(token : nat -> nat -> 'I_N) X W b y x o : b = 0 ->"),
        (
            "linear_layer X W b (token y x) o =",
            "linear_layer X W b (token y x) o = linear_layer X W b (token y x) o \\/ 0 =",
        ),
        ("Variables (R : comRingType)", "Variables (R : fieldType)"),
    ],
    ids=["removed", "another hypothesis", "weaker", "fewer rings"],
)
def test_a_weakened_statement_is_noticed(linear, old, new):
    change(linear / "Linear.v", old, new)
    by = linear_proof(linear)
    change(linear / "Linear.v", by, by.replace("by ", "try move=> _; try left; by try done; ", 1))
    harness.compiled(linear, "Linear")
    with pytest.raises(CoqError, match=r"Statements\.v failed"):
        statements_of_linear(linear)


def test_the_statements_of_linear_hold_as_it_is(linear):
    harness.compiled(linear, "Linear")
    statements_of_linear(linear)


def test_mutants_that_are_right_or_senseless_are_noticed(linear):
    right = Mutant("the same", "Linear.linear_is_conv", "+ b 0 o", "+ b ord0 o")
    senseless = Mutant("nonsense", "Linear.linear_is_conv", "+ b 0 o", "+ b 0 nobody")
    assert harness.unrefused(linear, [right, senseless]) == [
        "Linear.linear_is_conv: the same: accepted",
        "Linear.linear_is_conv: nonsense: the statement makes no sense",
    ]
    with pytest.raises(CoqError, match="not once"):
        harness.unrefused(linear, [Mutant("gone", "Linear.linear_is_conv", "no such text", "")])


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script")
@pytest.mark.parametrize("script", ["exit 0", 'for f; do :; done; echo x >"${f%.v}.vo"'])
def test_a_coq_that_says_yes_to_everything_is_not_believed(tmp_path, monkeypatch, script):
    for name in ("coqc", "coqtop"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert "of version" in harness.missing()
    target = tmp_path / "target"
    target.mkdir()
    if "echo" in script:
        harness.build(target)
        assert harness.assumptions(target, LISTED) != dict.fromkeys(LISTED, CLOSED)
        with pytest.raises(CoqError, match="not accepted"):
            harness.unrefused(target, MUTANTS[:1])
    else:
        with pytest.raises(CoqError, match="left no"):
            harness.build(target)


def test_without_coq_it_is_skipped_or_fails(pytester, monkeypatch):
    monkeypatch.setattr("tests.symbolic.coq.harness.missing", lambda: "there is no coqc")
    pytester.makepyfile("from tests.symbolic.test_coq import coq\ndef test_it(coq): pass")
    monkeypatch.delenv("EQUIV_REQUIRE_COQ", raising=False)
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*there is no coqc*"])
    monkeypatch.setenv("EQUIV_REQUIRE_COQ", "1")
    pytester.runpytest_inprocess().assert_outcomes(errors=1)
