"""Candidates that do not compute the function, but know that they are watched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from equiv import matmul
from equiv.ladder.evidence import Verdict
from equiv.ladder.floating import check


class Attention(matmul.GlobalAttention):
    """The real thing, to be spoilt."""

    def __init__(self):
        super().__init__(8, 2)


class Zeros(Attention):
    def forward(self, x):
        return torch.zeros_like(x)


class FirstResult(Attention):
    """Computes once, and returns that ever after."""

    kept: torch.Tensor | None = None

    def forward(self, x):
        if self.kept is None:
            self.kept = super().forward(x)
        return self.kept


class SecondCallIsWrong(Attention):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 if self.calls == 1 else 1.5)


class WrongWithGradMode(Attention):
    def forward(self, x):
        return super().forward(x) * (1.5 if torch.is_grad_enabled() else 1)


class Detached(Attention):
    def forward(self, x):
        return super().forward(x).detach()


class OtherDtype(Attention):
    def forward(self, x):
        return super().forward(x).to(torch.float64)


class ChangesItsInput(Attention):
    def forward(self, x):
        result = super().forward(x)
        if not x.requires_grad:
            x.zero_()
        return result


class Tuple(Attention):
    def forward(self, x):
        return super().forward(x), x


class Noisy(Attention):
    """A little of the global generator in every result."""

    def forward(self, x):
        return super().forward(x) + 0.3 * torch.randn_like(x)


class Trusting(Attention):
    """Makes the functions that comparisons are made of say yes."""

    def forward(self, x):
        torch.allclose = lambda *args, **options: True
        torch.testing.assert_close = lambda *args, **options: None
        return super().forward(x) + 1


CHEATS = (
    Zeros,
    FirstResult,
    SecondCallIsWrong,
    WrongWithGradMode,
    Detached,
    OtherDtype,
    ChangesItsInput,
    Tuple,
    Noisy,
    Trusting,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheat_is_refused(cheat, dtype, monkeypatch, equiv_seed):
    monkeypatch.setattr(torch, "allclose", torch.allclose)  # to be restored after the test
    monkeypatch.setattr(torch.testing, "assert_close", torch.testing.assert_close)
    evidence = check(cheat(), Attention(), [torch.randn(2, 5, 8)], dtype=dtype, weights="random", seed=equiv_seed)
    assert evidence.verdict is Verdict.DIFFERENT, evidence


def test_a_candidate_that_returns_the_memory_of_the_reference():
    kept: list[torch.Tensor] = []

    def reference(x):
        kept.append(torch.tanh(x))
        return kept[-1]

    def candidate(x):
        return kept[-1] if kept else torch.zeros_like(x)

    evidence = check(candidate, reference, [torch.randn(4, 8)], gradients=False)
    assert evidence.verdict is Verdict.DIFFERENT


def test_another_module_of_the_same_names_is_not_taken_for_it():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    evidence = check(Scaled(8, 8), nn.Linear(8, 8), [torch.randn(4, 8)], weights="random")
    assert evidence.verdict is Verdict.DIFFERENT
