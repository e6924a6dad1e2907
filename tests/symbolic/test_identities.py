"""The twelve families: proved, their wrong variants refused, the bridge holds, and each part of that can fail."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from equiv import conv, symbolic
from equiv.ladder.evidence import Verdict
from equiv.symbolic.bridge import bridge
from equiv.symbolic.calculus import proves

IDENTITIES = {identity.name: identity for family in symbolic.FAMILIES for identity in family.identities}


def test_there_are_twelve_families():
    assert [family.number for family in symbolic.FAMILIES] == list(range(1, 13))


@pytest.mark.parametrize("name", IDENTITIES)
def test_proved_with_facts_checked_and_variants_refused(name):
    evidence = symbolic.prove(IDENTITIES[name])
    assert evidence.verdict is Verdict.EQUAL, str(evidence)
    assert evidence.numbers["wrong variants refused"] >= 3


@pytest.mark.parametrize("name", [name for name, identity in IDENTITIES.items() if identity.facts and name != "11d"])
def test_every_fact_is_needed(name):
    identity = IDENTITIES[name]
    for fact in identity.facts:
        fewer = tuple(f for f in identity.facts if f != fact)
        steps = zip(identity.steps, identity.steps[1:], strict=False)
        assert not all(proves(left, right, fewer) for (_, left), (_, right) in steps), f"not needed: {fact}"


class TestProofsCanFail:
    good = IDENTITIES["6a"]

    def test_a_false_step_is_refuted(self):
        wrong = ("a slip", self.good.wrong["the scale is applied twice"])
        evidence = symbolic.prove(dataclasses.replace(self.good, steps=(*self.good.steps, wrong)))
        assert evidence.verdict is Verdict.DIFFERENT
        assert "a slip" in evidence.reason
        assert "≠" in evidence.reason

    def test_a_true_step_beyond_the_facts_is_unknown(self):
        identity = IDENTITIES["4a"]
        evidence = symbolic.prove(dataclasses.replace(identity, facts=()))
        assert evidence.verdict is Verdict.UNKNOWN
        assert "not proved" in evidence.reason

    def test_a_right_variant_among_the_wrong_ones_is_noticed(self):
        evidence = symbolic.prove(dataclasses.replace(self.good, wrong={"right": self.good.right}))
        assert evidence.verdict is Verdict.UNKNOWN
        assert "accepted" in evidence.reason

    def test_a_false_fact_is_noticed(self):
        identity = IDENTITIES["11b"]
        worlds = tuple(type(world)({**world.sizes, "r": 5}, world.functions) for world in identity.worlds)
        evidence = symbolic.prove(dataclasses.replace(identity, worlds=worlds))
        assert evidence.verdict is Verdict.UNKNOWN
        assert "fact is false" in evidence.reason


@pytest.mark.parametrize("number", range(1, 13))
def test_the_bridge_holds_for_several_draws(number):
    for seed in (0, 3):
        evidence = bridge(number, seed)
        assert evidence.verdict is Verdict.EQUAL, str(evidence)
        assert evidence.numbers["entries compared"] >= 90


def test_the_bridge_covers_every_identity_but_two():
    covered = {name for number in range(1, 13) for name in bridge(number).claim.split("expressions ")[1].split(", ")}
    assert set(IDENTITIES) - covered == {"11a", "11c"}  # inside 11b; about exp(−α …), which float64 does not hold


@pytest.mark.parametrize(
    ("number", "module", "name"),
    [
        (3, "equiv.conv.apply", "activate"),
        (6, "equiv.conv.apply", "merge_pair"),
        (4, "equiv.conv.selection", "cut"),
    ],
)
def test_the_bridge_notices_broken_layers(number, module, name, monkeypatch):
    broken: dict[str, Any] = {
        "activate": lambda z, activation, dim: z,
        "merge_pair": lambda first, second, lowering="fused": first @ second.transpose(-1, -2),
        "cut": lambda size, window, shift: [torch.arange(size).reshape(-1, window)],
    }
    monkeypatch.setattr(sys.modules[module], name, broken[name])
    evidence = bridge(number)
    assert evidence.verdict is Verdict.DIFFERENT
    assert "conv" in evidence.reason


def test_the_bridge_notices_a_form_that_is_missing(monkeypatch):
    monkeypatch.setattr("equiv.symbolic.bridge.FORMS", ("matmul", "conv, literal", "conv, fused", "fourth"))
    assert bridge(2).verdict is Verdict.DIFFERENT


def test_prove_all_sums_up():
    evidence = symbolic.prove_all()
    assert [e.verdict for e in evidence] == [Verdict.EQUAL] * 12
    assert all(len(e.parts) == len(f.identities) + 1 for e, f in zip(evidence, symbolic.FAMILIES, strict=True))
    helpers = {"Anatomy", "DynamicConvolution", "KernelBank", "KernelSelection"}
    operators = {name for name in conv.__all__ if name[0].isupper()} - helpers
    assert {name for family in symbolic.FAMILIES for name in family.covers} >= operators


def test_find_lists_what_there_is():
    with pytest.raises(ValueError, match="but should be one of 1a, 1b, 2a"):
        symbolic.find("13a")


_PRINT = """
from equiv.symbolic import FAMILIES
from equiv.symbolic.calculus import normal_form
for family in FAMILIES:
    for identity in family.identities:
        for side in (identity.left, identity.right):
            print(identity.name, normal_form(side, identity.facts), sep="|")
"""


def test_normal_forms_do_not_depend_on_the_hash_seed():
    outputs = set()
    for seed in "012":
        result = subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.count("\n") == 2 * len(IDENTITIES)
        outputs.add(result.stdout)
    assert len(outputs) == 1


def test_proofs_need_no_torch():
    code = "import sys, equiv.symbolic; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("seed", [16, 17, 18, 19, 21])
def test_the_bridge_of_windows_meets_no_ties(seed):
    """Fused kernels break ties of softmax by rounding; with these seeds it once was DIFFERENT."""
    assert bridge(4, seed).verdict is Verdict.EQUAL
