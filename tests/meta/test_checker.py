"""The checker is not fooled, and says UNKNOWN rather than EQUAL where nothing was shown; cheats: ``test_cheats.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equiv import NotEquivalent, assert_equivalent, matmul
from equiv.ladder.evidence import Evidence, Verdict
from equiv.ladder.floating import check

X = torch.linspace(-3, 3, 60).reshape(20, 3)  # so many that random ones have both signs


class Scale(nn.Module):
    """``x ⊙ weight``."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def verdict(candidate: Any, reference: Any, *inputs: torch.Tensor, **options: Any) -> Verdict:
    return check(candidate, reference, inputs or [X], **options).verdict


# ---- candidates that are right in some way ---------------------------------------------------------------------------


def test_candidate_that_returns_one_tensor_and_overwrites_it() -> None:
    kept = torch.zeros_like(X)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        return kept.copy_(x.relu()) if not x.requires_grad else x.relu()

    assert verdict(candidate, torch.relu) is Verdict.EQUAL  # its results are read before the next call
    assert verdict(lambda x: kept, torch.relu) is Verdict.DIFFERENT


def test_candidate_that_changes_a_buffer() -> None:
    class Restless(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.running_mean = torch.zeros_like(x[0])
            return super().forward(x)

    assert verdict(Restless(3), nn.BatchNorm1d(3), weights="random") is Verdict.DIFFERENT


def test_candidate_with_frozen_parameters() -> None:
    assert verdict(Scale().requires_grad_(False), Scale(), weights="random") is Verdict.DIFFERENT
    assert verdict(Scale().requires_grad_(False), Scale(), weights="random", gradients=False) is Verdict.EQUAL


def test_candidate_with_tied_parameters() -> None:
    tied = matmul.LinformerAttention(4, 2, tokens=3, rank=2)
    tied.mix_value = tied.mix_key
    x = torch.randn(2, 3, 4)
    for weights in ("random", "own"):
        reference = matmul.LinformerAttention(4, 2, tokens=3, rank=2)
        with torch.no_grad():
            assert reference.mix_value is not None
            reference.mix_value.copy_(reference.mix_key)
        tied.load_state_dict(reference.state_dict())
        assert verdict(tied, reference, x, weights=weights) is Verdict.DIFFERENT


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_candidate_that_reads_memory_as_if_it_were_contiguous(layout: str) -> None:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        return x.as_strided(x.shape, (x.shape[1], 1)) * 2

    x = torch.randn(2, 4)
    assert verdict(candidate, lambda x: 2 * x, x, gradients=False) is Verdict.EQUAL
    assert verdict(candidate, lambda x: 2 * x, x, gradients=False, layout=layout) is not Verdict.EQUAL


@pytest.mark.parametrize("gradients", [True, False])
def test_candidate_that_changes_its_input_in_grad_mode_only(gradients: bool) -> None:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        y = x.relu()
        if torch.is_grad_enabled():
            x.detach().zero_()
        return y

    assert verdict(candidate, torch.relu, gradients=gradients) is Verdict.DIFFERENT


def test_gradients_are_compared_whatever_grad_mode_the_caller_is_in() -> None:
    with torch.no_grad():
        assert verdict(lambda x: x.detach().relu(), torch.relu) is not Verdict.EQUAL


# ---- nothing was shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(3).eval()])
def test_empty_input(module: nn.Module) -> None:
    assert verdict(module, module, torch.zeros(0, 3), weights="random") is Verdict.UNKNOWN
    with pytest.raises(NotEquivalent):
        assert_equivalent(module, module, torch.zeros(0, 3))


def test_our_operators_refuse_empty_input() -> None:
    operator = matmul.GlobalAttention(4, 2)
    assert verdict(operator, operator, torch.zeros(0, 3, 4)) is Verdict.UNKNOWN


def test_no_input() -> None:
    with pytest.raises(ValueError, match=r"`inputs`"):
        check(torch.relu, torch.relu, [])


@pytest.mark.parametrize("nothing", [None, [], {}, (None, [])])
def test_nothing_returned(nothing: object) -> None:
    assert verdict(lambda x: nothing, lambda x: nothing) is Verdict.UNKNOWN


@pytest.mark.parametrize("noise", [1.0, 1e-3, 1e-6])
def test_random_reference(noise: float) -> None:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return x + noise * torch.randn_like(x)

    assert verdict(lambda x: x, reference) is Verdict.UNKNOWN
    assert verdict(reference, reference) is Verdict.UNKNOWN


@pytest.mark.parametrize("role", ["candidate", "reference", "both"])
def test_dropout_in_training(role: str) -> None:
    dropout, plain = nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), nn.Sequential(nn.ReLU(), nn.Identity())
    candidate = plain if role == "reference" else dropout
    reference = plain if role == "candidate" else dropout
    assert verdict(candidate, reference) is Verdict.UNKNOWN
    assert verdict(candidate.eval(), reference.eval()) is Verdict.EQUAL


def test_functional_dropout_in_training() -> None:
    assert verdict(F.dropout, F.dropout) is Verdict.UNKNOWN
    assert verdict(F.dropout, lambda x: x) is Verdict.DIFFERENT


def test_reference_that_overflows() -> None:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return (x * 1e5) * 1e-5

    assert verdict(lambda x: x, reference, dtype=torch.float16) is Verdict.UNKNOWN
    assert verdict(reference, lambda x: x, dtype=torch.float16) is Verdict.DIFFERENT


@pytest.mark.parametrize("wrong", ["candidate", "reference"])
def test_one_that_raises(wrong: str) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    candidate, reference = (fails, torch.relu) if wrong == "candidate" else (torch.relu, fails)
    evidence = check(candidate, reference, [X])
    assert evidence.verdict is Verdict.UNKNOWN
    assert "broken" in evidence.reason


# ---- outputs that are not one tensor of floats -----------------------------------------------------------------------


def test_integers_are_compared_exactly() -> None:
    def biggest(x: torch.Tensor) -> torch.Tensor:
        return (1 << 60) + x.argmax(-1)

    assert verdict(biggest, lambda x: biggest(x)) is Verdict.EQUAL
    assert verdict(lambda x: biggest(x) + 1, biggest) is Verdict.DIFFERENT  # 1e-18 relative
    assert verdict(lambda x: x > 0, lambda x: x > 0) is Verdict.EQUAL
    assert verdict(lambda x: x >= 0, lambda x: x > 0, torch.zeros(2, 3)) is Verdict.DIFFERENT
    assert verdict(lambda x: (x > 0).int(), lambda x: x > 0) is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        (lambda x: (x, 2 * x), lambda x: (2 * x, x)),
        (lambda x: x, lambda x: (x, x)),
        (lambda x: (x, x, x), lambda x: (x, x)),
        (lambda x: x[0], lambda x: x),
        (lambda x: x.double(), lambda x: x),
        (lambda x: {"a": x, "b": 2 * x}, lambda x: {"a": x, "b": 3 * x}),
    ],
)
def test_structure(candidate: Callable[..., Any], reference: Callable[..., Any]) -> None:
    assert verdict(candidate, reference) is Verdict.DIFFERENT


def test_not_a_tensor() -> None:
    assert verdict(lambda x: 1.0, lambda x: 1.0) is Verdict.UNKNOWN
    assert verdict(lambda x: x.to_sparse(), lambda x: x.to_sparse()) is Verdict.UNKNOWN


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_other_parameter_names() -> None:
    class Other(nn.Module):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.scale = nn.Parameter(values)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    assert verdict(Other(torch.full((3,), 2.0)), Scale()) is Verdict.DIFFERENT
    assert verdict(Other(torch.ones(3)), Scale(), weights="random") is Verdict.UNKNOWN
    own = check(Other(torch.ones(3)), Scale(), [X])
    assert own.verdict is Verdict.EQUAL
    assert "own weights" in own.scope
    assert "input gradients" in own.scope  # nothing is claimed of the parameters'


def test_other_parameter_shapes() -> None:
    assert verdict(Scale(1), Scale(3), weights="random") is Verdict.UNKNOWN


def test_different_own_weights() -> None:
    other = Scale()
    nn.init.constant_(other.weight, 2)
    for weights in ("own", "auto"):
        evidence = check(other, Scale(), [X], weights=weights)
        assert evidence.verdict is Verdict.DIFFERENT
        assert "different weights under the same names" in evidence.reason
    assert verdict(other, Scale(), weights="random") is Verdict.EQUAL


def test_equal_only_with_initial_weights() -> None:
    class Twice(Scale):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight * self.weight

    assert verdict(Twice(), Scale(), weights="own", gradients=False) is Verdict.EQUAL
    assert verdict(Twice(), Scale(), gradients=False) is Verdict.DIFFERENT


# ---- evidence --------------------------------------------------------------------------------------------------------


def test_no_truth_value() -> None:
    evidence = check(torch.relu, torch.relu, [X])
    for thing in (evidence, *Verdict):
        with pytest.raises(TypeError):
            bool(thing)


def test_a_reason_if_and_only_if_not_equal() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Evidence(Verdict.EQUAL, claim="c", scope="s", reason="but")
    with pytest.raises(ValueError, match="does not fit"):
        Evidence(Verdict.UNKNOWN, claim="c", scope="s")


def test_the_seed_reproduces_the_evidence() -> None:
    first = check(torch.abs, torch.relu, [X])
    again = check(torch.abs, torch.relu, [X], seed=first.seed)
    assert (again.verdict, again.reason) == (Verdict.DIFFERENT, first.reason)


def test_assert_equivalent_raises_with_the_evidence() -> None:
    with pytest.raises(NotEquivalent, match="DIFFERENT") as caught:
        assert_equivalent(torch.abs, torch.relu, X)
    assert caught.value.evidence.verdict is Verdict.DIFFERENT
    assert assert_equivalent(lambda x: x + x, lambda x: 2 * x, X).verdict is Verdict.EQUAL
