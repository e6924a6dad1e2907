"""The checker accepts correct code that is written differently."""

from __future__ import annotations

import os

import pytest
import torch

from equiv import matmul
from equiv.ladder.evidence import Verdict
from equiv.ladder.floating import check
from tests.meta.rewrites import REWRITES, Rewrite

SEEDS = int(os.environ.get("EQUIV_META_SEEDS", "2"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.name)
def test_rewrite_is_accepted(rewrite: Rewrite, dtype: torch.dtype, equiv_seed: int) -> None:
    reference = getattr(matmul, rewrite.operator)(*rewrite.case.args, **rewrite.case.options)
    for seed in range(equiv_seed, equiv_seed + SEEDS):
        x = torch.randn(rewrite.case.shape, generator=torch.Generator().manual_seed(seed))
        evidence = check(
            rewrite.candidate(),
            reference.train(rewrite.case.training),
            [x],
            dtype=dtype,
            weights="random",
            patterns=("offset",),
            seed=seed,
        )
        assert evidence.verdict is Verdict.EQUAL, evidence


def test_the_table() -> None:
    assert len({rewrite.name for rewrite in REWRITES}) == len(REWRITES) >= 20
