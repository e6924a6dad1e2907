"""The check as users meet it: weights, scope, reproducibility, and what it cannot decide."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from equiv import NotEquivalent, Verdict, assert_equivalent, conv, matmul
from equiv.ladder.floating import check


def run(candidate, reference, *inputs, **options):
    return check(candidate, reference, inputs or [torch.randn(3, 8)], **{"patterns": (), **options})


class Renamed(nn.Module):
    """A linear layer whose parameters have names and shapes of its own."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 5))
        self.offset = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return x @ self.kernel + self.offset


def to_renamed(tensors):
    return {"kernel": tensors["weight"].mT, "offset": tensors["bias"]}


def test_random_weights_are_shared_by_name():
    evidence = run(nn.Linear(8, 5), nn.Linear(8, 5), weights="random")
    assert evidence.verdict is Verdict.EQUAL
    assert "random weights" in evidence.scope


def test_own_weights_are_kept_and_a_difference_is_explained():
    evidence = run(nn.Linear(8, 5), nn.Linear(8, 5))
    assert evidence.verdict is Verdict.DIFFERENT
    assert "different weights under the same names" in evidence.reason


def test_auto_adds_random_weights_where_the_own_ones_are_equal():
    # A zero bias hides that the candidate ignores it.
    class NoBias(nn.Linear):
        def forward(self, x):
            return x @ self.weight.mT

    reference, candidate = nn.Linear(8, 5), NoBias(8, 5)
    nn.init.zeros_(reference.bias)
    candidate.load_state_dict(reference.state_dict())
    assert run(candidate, reference, gradients=False, weights="own").verdict is Verdict.EQUAL
    assert run(candidate, reference, gradients=False).verdict is Verdict.DIFFERENT


def test_conversion_of_weights_and_gradients():
    evidence = run(Renamed(), nn.Linear(8, 5), convert=to_renamed)
    assert evidence.verdict is Verdict.EQUAL
    assert evidence.numbers["tensors compared"] == 2 * (
        2 + 3
    )  # own and random; outputs, gradients of x, kernel, offset
    wrong = run(Renamed(), nn.Linear(8, 5), convert=lambda t: {**to_renamed(t), "offset": -t["bias"]})
    assert wrong.verdict is Verdict.DIFFERENT
    missing = run(Renamed(), nn.Linear(8, 5), convert=lambda t: {"kernel": t["weight"].mT})
    assert missing.verdict is Verdict.UNKNOWN
    assert "loading failed" in missing.reason


def test_other_names_without_conversion():
    evidence = run(Renamed(), nn.Linear(8, 5), weights="random")
    assert evidence.verdict is Verdict.UNKNOWN
    assert "only in the candidate: ['kernel (8, 5)', 'offset (5,)']" in evidence.reason
    # with their own weights, which agree, outputs and input gradients can be compared
    reference, candidate = nn.Linear(8, 5), Renamed()
    candidate.load_state_dict(to_renamed(reference.state_dict()))
    evidence = run(candidate, reference)
    assert evidence.verdict is Verdict.EQUAL
    assert evidence.scope.startswith("outputs and input gradients for 3x8")


def test_compiled_modules_have_the_names_of_what_they_compile():
    compiled = torch.compile(matmul.GlobalAttention(8, 2), backend="eager")
    evidence = run(compiled, matmul.GlobalAttention(8, 2), torch.randn(2, 5, 8), weights="random")
    assert evidence.verdict is Verdict.EQUAL
    assert evidence.scope.startswith("outputs and gradients")


def test_the_same_seed_gives_the_same_numbers():
    pair = conv.GlobalAttention(8, 2), matmul.GlobalAttention(8, 2)
    x = torch.randn(2, 5, 8)

    def numbers(seed):
        evidence = check(*pair, [x], weights="random", seed=seed, dtype=torch.bfloat16)
        return {**evidence.numbers, "seconds": 0}, evidence.seed

    assert numbers(3) == numbers(3)
    assert numbers(3) != numbers(4)
    assert numbers(None)[1] != numbers(None)[1]


def test_the_modules_given_are_left_alone():
    pair = conv.DynamicDepthwiseConv2d(4, kernel_size=3), matmul.DynamicDepthwiseConv2d(4, kernel_size=3)
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in pair]
    x = torch.randn(2, 4, 5, 5)
    given = x.clone()
    run(*pair, x, weights="random", dtype=torch.bfloat16)
    for module, state in zip(pair, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(x, given)


def test_running_statistics_are_compared():
    class Still(nn.BatchNorm1d):
        """Normalises with the batch's statistics, but does not remember them."""

        def forward(self, x):
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True)

    assert run(nn.BatchNorm1d(8), nn.BatchNorm1d(8), weights="random").verdict is Verdict.EQUAL
    evidence = run(Still(8), nn.BatchNorm1d(8), weights="random")
    assert evidence.verdict is Verdict.DIFFERENT
    assert "buffer" in evidence.reason


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        (lambda x: {"a": x, "b": x.relu()}, lambda x: {"b": x, "a": x.relu()}),  # the same values under other keys
        (lambda x: (x, None), lambda x: x),
        (lambda x: (None, x), lambda x: (x, None)),
        (lambda x: [[x], x], lambda x: [x, [x]]),
    ],
)
def test_outputs_are_compared_with_their_structure(candidate, reference):
    assert run(candidate, reference).verdict is Verdict.DIFFERENT


def test_the_order_of_keys_does_not_matter():
    assert run(lambda x: {"a": x, "b": x.relu()}, lambda x: {"b": x.relu(), "a": x}).verdict is Verdict.EQUAL


def test_other_buffers_that_are_constants_do_not_matter():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(8.0), persistent=False)

        def forward(self, x):
            return x + self.get_buffer("table")

    evidence = run(Table(), lambda x: x + torch.arange(8, dtype=x.dtype))
    assert evidence.verdict is Verdict.EQUAL


def test_grad_mode_of_the_caller_or_the_candidate_does_not_hide_gradients():
    def detached(x):
        torch.set_grad_enabled(False)
        return x.detach().sigmoid()

    try:
        with torch.inference_mode():
            assert run(lambda x: x.detach().sigmoid(), torch.sigmoid, torch.ones(3)).verdict is not Verdict.EQUAL
        assert run(detached, torch.sigmoid).verdict is Verdict.DIFFERENT
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_complex_buffers_are_not_made_real():
    class Rotation(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("turn", torch.tensor(1j), persistent=False)

        def forward(self, x):
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.get_buffer("turn"))

    evidence = run(Rotation(), Rotation())
    assert evidence.verdict is Verdict.UNKNOWN
    assert "`turn` is complex" in evidence.reason


def test_the_scope_names_the_mode():
    assert run(nn.Linear(8, 5), nn.Linear(8, 5), weights="random").scope.endswith("training mode")
    assert run(nn.ReLU().eval(), torch.relu).scope.endswith("evaluation mode")


@pytest.mark.parametrize("persistent", [True, False])
def test_constant_buffers_stay_what_they_are(persistent):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.register_buffer("mask", torch.tensor([0.0, 1.0] * 4), persistent=persistent)

        def forward(self, x):
            assert set(self.get_buffer("mask").tolist()) == {0.0, 1.0}
            return x * self.weight * self.get_buffer("mask")

    assert run(Masked(), Masked(), weights="random").verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("candidate", "reference", "reason"),
    [
        (lambda x: x + torch.randn_like(x), lambda x: x + torch.randn_like(x), "the reference is random"),
        (lambda x: x[:0], lambda x: x[:0], "nothing was compared"),
        (lambda x: x, lambda x: None, "the reference returns no tensor"),
        (lambda x: x, lambda x: "text", "returns a str"),
        (lambda x: x, lambda x: x.to_sparse(), "cannot be compared"),
        (lambda x: x * float("nan"), lambda x: x * float("nan"), "no output of the reference has a finite element"),
        (lambda x: sys.exit(0), lambda x: x, "running the candidate failed: SystemExit"),
        (lambda x: x, lambda x: x.missing, "running the reference failed: AttributeError"),
        (lambda x: x.missing, lambda x: x, "running the candidate failed: AttributeError"),
        (lambda x: x, lambda x: x.mul_(2), "the reference changes its input 0 in place"),
        (nn.Dropout(0.5), nn.Identity(), "dropout in training mode"),
        # all digits cancel: the reference's rounding is as large as the result
        (lambda x: (x + 1000) - 1000, lambda x: (x + 1000) - 1000, "rounding alone may change half of output 0"),
    ],
)
def test_what_cannot_be_decided_is_unknown(candidate, reference, reason):
    evidence = run(candidate, reference, dtype=torch.bfloat16)
    assert evidence.verdict is Verdict.UNKNOWN
    assert reason in evidence.reason


def test_assert_equivalent_returns_evidence_or_raises_with_it():
    x = torch.randn(4, 8)
    assert assert_equivalent(torch.sigmoid, lambda x: 1 / (1 + (-x).exp()), x).verdict is Verdict.EQUAL
    with pytest.raises(NotEquivalent, match=r"DIFFERENT: .* equals relu up to rounding") as caught:
        assert_equivalent(lambda x: x.clamp(min=0, max=1), torch.relu, x)
    assert caught.value.evidence.verdict is Verdict.DIFFERENT
    with pytest.raises(NotEquivalent, match="UNKNOWN"):
        assert_equivalent(torch.relu, torch.rand_like, x)


@pytest.mark.parametrize(
    ("error", "arguments", "options", "text"),
    [
        (TypeError, (1, torch.relu, torch.zeros(2)), {}, "`candidate`=1, but should be a module or function"),
        (TypeError, (torch.relu, torch.relu, torch.zeros(2), 3), {}, r"`inputs\[1\]`=3, but should be a tensor"),
        (ValueError, (torch.relu, torch.relu), {}, "`example_inputs`"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2).long()), {}, "`dtype`=None"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2)), {"dtype": torch.int8}, "`dtype`=torch.int8"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2)), {"rung": "faith"}, "`rung`='faith'"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2)), {"weights": "mine"}, "`weights`='mine'"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2)), {"patterns": ("huge",)}, "`patterns`='huge'"),
        (ValueError, (torch.relu, torch.relu, torch.zeros(2)), {"layout": "tiled"}, "`layout`='tiled'"),
    ],
)
def test_bad_arguments(error, arguments, options, text):
    with pytest.raises(error, match=text):
        assert_equivalent(*arguments, **options)
