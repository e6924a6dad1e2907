"""The checker accepts correct code that is written differently, in every dtype."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from equiv import matmul
from equiv.ladder.evidence import Verdict
from equiv.ladder.floating import DTYPES, check
from tests.meta.rewrites import FALSE_ALARMS_IN_HALF_TYPES, REWRITES, Rewrite

#: Fresh seeds for each rewrite and dtype: drawn from the session's seed, which the header prints (--equiv-seed).
SEEDS = int(os.environ.get("EQUIV_META_SEEDS", "3"))
HALF_TYPES = (torch.bfloat16, torch.float16)

each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


@each_dtype
@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.name)
def test_rewrite_is_accepted(rewrite: Rewrite, dtype: torch.dtype, equiv_seed: int) -> None:
    if dtype in HALF_TYPES and rewrite.name in FALSE_ALARMS_IN_HALF_TYPES:
        pytest.skip("a known false alarm of the interim rule")
    for seed in range(equiv_seed, equiv_seed + SEEDS):
        x = torch.randn(rewrite.case.shape, generator=torch.Generator().manual_seed(seed))
        evidence = check(rewrite.candidate(), rewrite.reference(), [x], dtype=dtype, weights="random", seed=seed)
        assert evidence.verdict is Verdict.EQUAL, evidence


class TorchAttention(nn.Module):
    """``nn.MultiheadAttention`` as self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
        return y


NAMES = {
    "qkv.weight": "inner.in_proj_weight",
    "qkv.bias": "inner.in_proj_bias",
    "proj.weight": "inner.out_proj.weight",
    "proj.bias": "inner.out_proj.bias",
}


@pytest.mark.parametrize("training", [False, True])  # torch takes its fast path in evaluation only
@each_dtype
def test_module_with_converted_weights_is_accepted(dtype: torch.dtype, training: bool, equiv_seed: int) -> None:
    for seed in range(equiv_seed, equiv_seed + SEEDS):
        evidence = check(
            TorchAttention(8, 2).train(training),
            matmul.GlobalAttention(8, 2),
            [torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(seed))],
            dtype=dtype,
            weights="random",
            convert=lambda tensors: {NAMES[name]: tensor for name, tensor in tensors.items()},
            seed=seed,
        )
        assert evidence.verdict is Verdict.EQUAL, evidence


def test_the_table() -> None:
    names = [rewrite.name for rewrite in REWRITES]
    assert len(names) >= 24
    assert len(set(names)) == len(names)
    assert set(names) >= FALSE_ALARMS_IN_HALF_TYPES
