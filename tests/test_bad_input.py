"""Inputs that an operator is not defined on, and what cannot be merged, are refused by a message that names them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from equiv import conv, matmul
from equiv.testing.strategies import OPERATORS, PRECISE, Drawn, cases
from tests.refusals import EXAMPLES, FORMS, none, refusal, same, things

of_operators = pytest.mark.parametrize("operator", OPERATORS)

# ---- inputs ----------------------------------------------------------------------------------------------------------


def acceptable(drawn: Drawn, shape: tuple[int, ...]) -> bool:
    """Is the operator defined on inputs of this shape? Said anew, from the definition."""
    options = drawn.options
    if len(drawn.shape) == 3:
        grid = options.get("relative_position")
        count = options.get("tokens") or (grid and math.prod(grid) + options.get("class_token", False))
        return len(shape) == 3 and 0 not in shape and shape[2] == drawn.args[0] and shape[1] == (count or shape[1])
    if len(shape) != 4 or 0 in shape or shape[1] != drawn.args[0]:
        return False
    batch, _, height, width = shape
    stride = options.get("stride", 1) if drawn.operator == "Involution2d" else 1
    least = options.get("window", 1)
    if drawn.operator == "DynamicConv2d":
        reach = options.get("dilation", 1) * (options.get("kernel_size", 3) - 1)
        least = reach + 1 - 2 * options.get("padding", reach // 2)
    if min(height, width) < least or height % stride or width % stride:
        return False
    pooled = drawn.operator == "DynamicDepthwiseConv2d" and options.get("variant", "homogeneous") == "homogeneous"
    values = batch if pooled else batch * height * width // stride**2
    return values > 1 or not drawn.training


@st.composite
def shapes(draw: Any, right: tuple[int, ...]) -> tuple[int, ...]:
    """Any shape, but most of them nearly right: an axis more, less, or of another size."""
    shape = list(right)
    axis = draw(st.integers(0, len(shape) - 1))
    change = draw(st.sampled_from(("size", "size", "size", "insert", "delete", "any")))
    if change == "any":
        return tuple(draw(st.lists(st.integers(0, 5), max_size=6)))
    if change == "delete":
        del shape[axis]
    elif change == "insert":
        shape.insert(axis, draw(st.integers(0, 4)))
    else:
        shape[axis] = draw(st.integers(0, 9))
    return tuple(shape)


@of_operators
def test_an_input_of_any_shape_is_computed_or_refused(operator):
    @given(cases(operator), st.data())
    def computed_or_refused(drawn, data):
        shape = data.draw(shapes(drawn.shape))
        x = torch.zeros(shape)
        operators = [drawn.build(form, torch.float32) for form in FORMS]
        if acceptable(drawn, shape):
            assert operators[0](x).shape == operators[1](x).shape == operators[2](x).shape
            assert operators[0](x).numel() > 0
        else:
            assert str(shape) in same(refusal("x", operator, module, x) for module in operators)

    computed_or_refused()


NUMBERS = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
)


@of_operators
@pytest.mark.parametrize("dtype", PRECISE)
def test_an_input_of_another_dtype_is_refused(operator, dtype):
    drawn = EXAMPLES[operator]
    operators = [drawn.build(form, dtype) for form in FORMS]
    for other in NUMBERS:
        if other is not dtype:
            x = torch.ones(drawn.shape).to(other)
            assert str(other) in same(refusal("x", operator, module, x) for module in operators)


@of_operators
def test_an_input_on_another_device_is_refused(operator):
    drawn = EXAMPLES[operator]
    for form in FORMS:
        module = drawn.build(form, torch.float32)
        assert "`x`=device(type='meta')" in refusal("x", operator, module, torch.ones(drawn.shape, device="meta"))
        assert "meta" in refusal("x", operator, module.to("meta"), torch.ones(drawn.shape))
        assert module(torch.ones(drawn.shape, device="meta")).device.type == "meta"  # both on one: no reason to refuse


@of_operators
@given(value=things | none | st.booleans() | st.integers() | st.floats() | st.just(np.zeros((2, 6, 4), np.float32)))
def test_what_is_no_tensor_is_refused(operator, value):
    assume(not isinstance(value, torch.Tensor))
    same(refusal("x", operator, EXAMPLES[operator].build(form), value) for form in FORMS)


@of_operators
def test_a_sparse_input_is_refused(operator):
    drawn = EXAMPLES[operator]
    same(refusal("x", operator, drawn.build(form), drawn.values().to_sparse()) for form in FORMS)


@of_operators
@pytest.mark.parametrize("to", [torch.float64, "meta"])
def test_a_module_of_mixed_parameters_is_refused(operator, to):
    """Its first submodule was converted alone."""
    for form in FORMS:
        module = EXAMPLES[operator].build(form, torch.float32)
        next(child for child in module.children() if list(child.parameters())).to(to)
        with pytest.raises((TypeError, ValueError), match=r"`.+`=.+, but should be .+ \[\w+\]"):
            module(torch.zeros(EXAMPLES[operator].shape))


@pytest.mark.parametrize("operator", ["DynamicDepthwiseConv2d", "Involution2d"])
def test_one_value_per_channel_is_refused_where_batch_norm_trains(operator):
    """It is BatchNorm's mode that counts: a frozen one needs no statistics."""
    drawn, x = EXAMPLES[operator], torch.zeros(1, 4, 2, 2)
    for form in FORMS:
        module: Any = drawn.build(form, torch.float32)
        refusal("x", operator, module, x)
        module.bn.eval()
        assert module(x).shape[0] == 1
        module.eval().bn.train()
        refusal("x", operator, module, x)


@pytest.mark.parametrize("operator", ["WindowAttention", "LinearAttention", "DynamicConv2d"])
def test_autocast_is_no_mixed_dtype(operator):
    drawn = EXAMPLES[operator]
    for form in FORMS:
        module = drawn.build(form, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(torch.ones(drawn.shape)).dtype is torch.bfloat16
            assert module(torch.ones(drawn.shape, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_a_subclass_goes_by_its_own_name():
    for package in (matmul, conv):
        mine = type("Mine", (package.GlobalAttention,), {})
        refusal("heads", "Mine", mine, 8, 3)
        refusal("x", "Mine", mine(8, 2), torch.zeros(1, 2, 3))


# ---- functions that merge --------------------------------------------------------------------------------------------


def zeros(*shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(shape, **options)


KERNELS = [
    ("second", (zeros(5, 4), zeros(6, 4))),
    ("second", (zeros(1, 4), zeros(6, 4))),
    ("bias", (zeros(5, 4), zeros(5, 4), zeros(7, 4))),
    ("first", ([1], zeros(5, 4))),
    ("second", (zeros(5, 4), None)),
    ("bias", (zeros(5, 4), zeros(5, 4), "x")),
    ("first", (zeros(5), zeros(5, 4))),
    ("second", (zeros(5, 4), zeros(5))),
    ("bias", (zeros(5, 4), zeros(5, 4), zeros(5))),
    ("first", (zeros(5, 4, dtype=torch.int64), zeros(5, 4, dtype=torch.int64))),
    ("second", (zeros(5, 4), zeros(5, 4).double())),
    ("bias", (zeros(5, 4), zeros(5, 4), zeros(2, 5).double())),
    ("second", (zeros(2, 5, 4), zeros(3, 5, 4))),
    ("bias", (zeros(2, 5, 4), zeros(2, 5, 4), zeros(3, 2, 5))),
    ("second", (zeros(5, 4), zeros(5, 4, device="meta"))),
    ("first", (zeros(0, 4), zeros(0, 4))),
]


@pytest.mark.parametrize(("name", "kernels"), KERNELS)
def test_kernels_that_do_not_fit_do_not_merge(name, kernels):
    refusal(name, "merge_kernels", conv.merge_kernels, *kernels)


def conv2d(inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **options)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("first", (None, conv2d(4, 5, 1))),
        ("second", (conv2d(3, 4, 1), nn.Linear(4, 5))),
        ("first", (nn.ConvTranspose2d(3, 4, 1), conv2d(4, 5, 1))),
        ("first", (conv2d(3, 4, 3), conv2d(4, 5, 1))),
        ("second", (conv2d(3, 4, 1), conv2d(4, 5, 3))),
        ("second", (conv2d(3, 4, 1), conv2d(4, 6, 1, groups=2))),
        ("first", (conv2d(3, 4, 1, padding=1), conv2d(4, 5, 1))),
        ("second", (conv2d(3, 4, 1), conv2d(5, 4, 1))),
        ("second", (conv2d(3, 4, 1), conv2d(4, 5, 1, dtype=torch.float64))),
        ("second", (conv2d(3, 4, 1), conv2d(4, 5, 1, device="meta"))),
    ],
)
def test_convolutions_that_do_not_fit_do_not_merge(name, pair):
    refusal(name, "merge_static", conv.merge_static, *pair)


@pytest.mark.parametrize("what", [None, 3, nn.Linear(2, 2), matmul.GlobalAttention(4, 2, activation="scaling")])
def test_what_is_no_attention_does_not_merge(what):
    refusal("attention", "merge_attention", conv.merge_attention, what)


@pytest.mark.parametrize("activation", ["softmax", "scaling_relu", "layernorm", "layernorm_relu"])
@pytest.mark.parametrize("operator", [conv.GlobalAttention, conv.WindowAttention])
def test_attention_that_is_not_linear_does_not_merge(operator, activation):
    attention = operator(4, 2, activation=activation)
    refusal("attention.activation", "merge_attention", conv.merge_attention, attention)


@pytest.mark.parametrize("what", [None, "GlobalAttention", torch.relu])
def test_what_is_no_module_has_no_anatomy(what):
    refusal("operator", "anatomy", conv.anatomy, what, zeros(1, 2, 3))
