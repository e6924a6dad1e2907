"""The checker rejects every seeded bug, and accepts the same code without the bug."""

from __future__ import annotations

import os

import pytest
import torch

from equiv import matmul
from equiv.ladder.evidence import Evidence, Verdict
from equiv.ladder.floating import check
from tests.meta.bugs import BELOW_BFLOAT16_ROUNDING, BUGS, Bug

#: Fresh seeds for each bug and dtype: drawn from the session's seed, which the header prints (--equiv-seed).
SEEDS = int(os.environ.get("EQUIV_META_SEEDS", "3"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)

each_bug = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def judge(bug: Bug, dtype: torch.dtype, seed: int, *, on: bool = True, gradients: bool = True) -> Evidence:
    torch.manual_seed(seed)  # for the bugs that draw from the global generator
    x = bug.given(torch.randn(bug.case.shape))
    return check(
        bug.candidate(on),
        bug.reference(),
        [x],
        dtype=dtype,
        weights="random",
        gradients=gradients,
        patterns=bug.patterns,
        seed=seed,
    )


@each_dtype
@each_bug
def test_bug_is_rejected(bug: Bug, dtype: torch.dtype, equiv_seed: int) -> None:
    if dtype == torch.bfloat16 and bug.name in BELOW_BFLOAT16_ROUNDING:
        pytest.skip("below the rounding of bfloat16")
    for seed in range(equiv_seed, equiv_seed + SEEDS):
        evidence = judge(bug, dtype, seed)
        assert evidence.verdict is Verdict.DIFFERENT, evidence


@each_dtype
@each_bug
def test_same_code_without_the_bug_is_accepted(bug: Bug, dtype: torch.dtype, equiv_seed: int) -> None:
    found = [judge(bug, dtype, seed, on=False) for seed in range(equiv_seed, equiv_seed + SEEDS)]
    for evidence in found:
        # In bfloat16 a few draws amplify rounding so much that nothing can be concluded.
        undecided = dtype == torch.bfloat16 and "rounding alone" in evidence.reason
        assert evidence.verdict is Verdict.EQUAL or undecided, evidence
    assert Verdict.EQUAL in [evidence.verdict for evidence in found]


@each_bug
def test_gradient_bugs_are_found_by_gradients_only(bug: Bug, equiv_seed: int) -> None:
    evidence = judge(bug, torch.float64, equiv_seed, gradients=False)
    expected = Verdict.EQUAL if bug.kind == "gradient" else Verdict.DIFFERENT
    assert evidence.verdict is expected, evidence


def test_the_table() -> None:
    names = [bug.name for bug in BUGS]
    assert len(names) >= 36
    assert len(set(names)) == len(names)
    assert set(names) >= BELOW_BFLOAT16_ROUNDING
    assert {bug.operator for bug in BUGS} == set(matmul.__all__)
