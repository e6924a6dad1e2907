"""Identities between operators: each is a special case of another one, or of an operator of PyTorch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from equiv import conv, matmul
from equiv.ladder.draws import draw_weights
from equiv.testing.strategies import cases

in_both = pytest.mark.parametrize("package", [matmul, conv], ids=["matmul", "conv"])
lowerings = pytest.mark.parametrize("lowering", ["literal", "fused"])
activations = pytest.mark.parametrize("activation", ["scaling", "none"])


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def drawn(module: Any, *like: nn.Module) -> Any:
    """``module`` in float64 and evaluation mode, with random weights, or with those of another."""
    module = module.double().eval()
    if like:
        module.load_state_dict(like[0].state_dict())
    else:
        draw_weights(module, torch.Generator().manual_seed(1))
    return module


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * want.abs().max().item())


# ---- merged kernels --------------------------------------------------------------------------------------------------


@lowerings
@activations
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(
    ("operator", "shape", "options"),
    [
        ("GlobalAttention", (2, 12, 8), {}),
        ("GlobalAttention", (2, 12, 8), {"relative_position": (3, 4)}),
        ("GlobalAttention", (2, 13, 8), {"relative_position": (3, 4), "class_token": True}),
        ("WindowAttention", (2, 8, 6, 9), {"window": 3}),
        ("WindowAttention", (2, 8, 6, 9), {"window": 3, "relative_position": False}),
        ("WindowAttention", (2, 8, 7, 5), {"window": 3, "shift": 1}),
        ("WindowAttention", (1, 8, 7, 9), {"window": 4, "shift": (1, 3), "relative_position": False}),
    ],
)
def test_linear_attention_merges(operator, shape, options, lowering, activation, qkv_bias):
    """A pair of linear dynamic convolutions is the one with the merged kernel (Eq. 4), in the same parameters."""
    pair = drawn(getattr(conv, operator)(8, 2, activation=activation, qkv_bias=qkv_bias, lowering=lowering, **options))
    merged = conv.merge_attention(pair)
    linear = {"GlobalAttention": "LinearAttention", "WindowAttention": "LinearWindowAttention"}[operator]
    assert type(merged) is getattr(conv, linear)
    assert merged.lowering == lowering
    assert merged.training == pair.training
    x = randn(*shape)
    close(merged(x), pair(x))
    for name, parameter in pair.named_parameters():
        assert dict(merged.named_parameters())[name] is parameter
    with torch.no_grad():
        pair.proj.bias += 1
    close(merged(x), pair(x))
    textbook = getattr(matmul, linear)(8, 2, activation=activation, qkv_bias=qkv_bias, **options)
    close(merged(x), drawn(textbook, pair)(x))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_dynamic_kernels_merge(dim, count, out, length, with_bias, seed):
    g = torch.Generator().manual_seed(seed)
    q, k, v, bias = (
        torch.randn(2, *shape, generator=g, dtype=torch.float64)
        for shape in ((length, dim), (count, dim), (count, out), (length, count))
    )
    kernel, offset = conv.merge_kernels(k, v, bias if with_bias else None)
    assert kernel.shape == (2, dim, out)
    want = (q @ k.mT + (bias if with_bias else 0)) @ v
    got = q @ kernel if offset is None else q @ kernel + offset
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert (offset is None) is not with_bias


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 3), ((2, 1), (1, 2))])
def test_static_convolutions_merge(biases, strides):
    sizes = [(3, 7), (7, 5)]
    first, second = (
        drawn(nn.Conv2d(*size, 1, stride=stride, bias=bias))
        for size, stride, bias in zip(sizes, strides, biases, strict=True)
    )
    merged = conv.merge_static(first, second)
    assert (merged.bias is not None) is any(biases)
    assert merged.weight.dtype is torch.float64
    x = randn(2, 3, 7, 12)
    close(merged(x), second(first(x)))


def test_what_is_not_linear_does_not_merge():
    """The identity is false for other activations, which are refused; a ReLU between the two shows why."""
    for activation in ("softmax", "scaling_relu", "layernorm", "layernorm_relu"):
        with pytest.raises(ValueError, match=r"`attention.activation`="):
            conv.merge_attention(conv.GlobalAttention(8, 2, activation=activation))
    pair = drawn(conv.GlobalAttention(8, 2, activation="scaling"))
    relu = drawn(conv.GlobalAttention(8, 2, activation="scaling_relu"), pair)
    x = randn(2, 5, 8)
    assert (conv.merge_attention(pair)(x) - relu(x)).abs().max() > 1e-2


# ---- attention -------------------------------------------------------------------------------------------------------


@in_both
@pytest.mark.parametrize(
    ("name", "other"), [("LinearAttention", "GlobalAttention"), ("LinearWindowAttention", "WindowAttention")]
)
def test_linear_attention_is_attention_without_softmax(package, name, other):
    @given(cases(name))
    def same(case):
        first = drawn(getattr(package, name)(*case.args, **case.options))
        options = {"activation": "scaling", **case.options}
        second = drawn(getattr(package, other)(*case.args, **options), first)
        close(first(case.values()), second(case.values()) + 1e-300)

    same()


@in_both
@pytest.mark.parametrize("sharing", ["none", "headwise", "key_value", "layerwise"])
@pytest.mark.parametrize("activation", ["softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu"])
def test_linformer_with_identity_mixing_is_attention(package, sharing, activation):
    attention = drawn(package.GlobalAttention(8, 2, activation=activation))
    options = {"tokens": 5, "rank": 5, "sharing": sharing, "activation": activation}
    linformer = drawn(package.LinformerAttention(8, 2, **options))
    mixing = {name: torch.eye(5).double().expand_as(p) for name, p in linformer.named_parameters() if "mix" in name}
    linformer.load_state_dict({**attention.state_dict(), **mixing})
    x = randn(2, 5, 8)
    close(linformer(x), attention(x))


@in_both
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(
    ("windowed", "other"),
    [
        ("WindowAttention", "GlobalAttention"),
        ("LinearWindowAttention", "LinearAttention"),
        ("DepthwiseWindowAttention", "DepthwiseAttention"),
    ],
)
def test_one_window_that_is_the_map_is_attention_of_all(package, windowed, other, shift):
    """Any shift counts as 0 there, and the tables of relative positions have the same layout."""
    first = drawn(getattr(package, windowed)(8, 2, window=4, shift=shift))
    second = drawn(getattr(package, other)(8, 2, relative_position=(4, 4)), first)
    x = randn(2, 8, 4, 4)
    close(first(x).flatten(2).mT, second(x.flatten(2).mT))


@in_both
@pytest.mark.parametrize("shift", [0, 1, (2, 0), (1, 2)])
@pytest.mark.parametrize(
    ("windowed", "other"),
    [
        ("WindowAttention", "GlobalAttention"),
        ("LinearWindowAttention", "LinearAttention"),
        ("DepthwiseWindowAttention", "DepthwiseAttention"),
    ],
)
def test_a_window_is_attention_of_its_locations(package, windowed, other, shift):
    """Each part of a shifted window is the global operator on its locations alone: the definition, by slicing."""
    first = drawn(getattr(package, windowed)(8, 2, window=3, shift=shift, relative_position=False))
    second = drawn(getattr(package, other)(8, 2), first)
    x = randn(2, 8, 6, 9)
    y = torch.full_like(x, torch.nan)
    rows, cols = (shift, shift) if isinstance(shift, int) else shift
    for top in range(rows - 3, 6, 3):
        for left in range(cols - 3, 9, 3):
            part = (..., slice(max(top, 0), top + 3), slice(max(left, 0), left + 3))
            if x[part].numel():
                y[part] = second(x[part].flatten(2).mT).mT.unflatten(2, x[part].shape[2:])
    close(first(x), y)


@in_both
def test_a_mask_far_below_the_logits_excludes(package):
    soft = drawn(package.WindowAttention(8, 2, window=3, shift=1, mask_value=-1e4))
    x = randn(2, 8, 6, 7)
    close(drawn(package.WindowAttention(8, 2, window=3, shift=1), soft)(x), soft(x))


@in_both
def test_the_six_activations_are_six_functions(package):
    attention, x = drawn(package.GlobalAttention(8, 2)), randn(1, 5, 8)
    names = ("softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu")
    found = [drawn(package.GlobalAttention(8, 2, activation=name), attention)(x) for name in names]
    for left, right in itertools.combinations(found, 2):
        assert (left - right).abs().max() > 1e-3


@in_both
def test_attention_by_hand(package):
    """Two tokens, one head of one channel, all weights 1 and no bias: worked out on paper."""
    attention = package.GlobalAttention(1, 1, qkv_bias=False).double()
    for parameter in attention.parameters():
        nn.init.ones_(parameter)
    nn.init.zeros_(attention.proj.bias)
    x = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    # logits of token 0: (0, 0); of token 1: (0, 1); values (0, 1)
    close(attention(x), torch.tensor([[[1 / 2], [math.e / (1 + math.e)]]], dtype=torch.float64))


@in_both
def test_softmax_attention_is_that_of_pytorch(package):
    attention = drawn(package.GlobalAttention(8, 2))
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj.weight": "proj.weight"}
    state = attention.state_dict()
    theirs.load_state_dict({**{a: state[b] for a, b in names.items()}, "out_proj.bias": state["proj.bias"]})
    x = randn(2, 5, 8)
    close(attention(x), theirs(x, x, x)[0])


# ---- convolutions ----------------------------------------------------------------------------------------------------


@in_both
@given(case=cases("DynamicConv2d"))
def test_d_conv_with_one_kernel_is_a_convolution(package, case):
    options = {**case.options, "kernels": 1}
    dynamic = drawn(package.DynamicConv2d(*case.args, **options))
    size, dilation = options.get("kernel_size", 3), options.get("dilation", 1)
    want = F.conv2d(
        case.values(),
        dynamic.weight[0],
        None if dynamic.bias is None else dynamic.bias[0],
        stride=options.get("stride", 1),
        padding=options.get("padding", dilation * (size - 1) // 2),
        dilation=dilation,
        groups=options.get("groups", 1),
    )
    torch.testing.assert_close(dynamic(case.values()), want, rtol=0, atol=1e-10)


@in_both
def test_d_conv_mixes_kernels_by_the_coefficients_of_the_image(package):
    """By the definition, image by image; at a low temperature one kernel wins, at a high one all count the same."""
    dynamic = drawn(package.DynamicConv2d(4, temperature=2.0))
    x = randn(3, 4, 6, 5)
    for image, y in zip(x, dynamic(x), strict=True):
        hidden = torch.relu(dynamic.fc1.weight @ image.mean((1, 2)) + dynamic.fc1.bias)
        logits = dynamic.fc2.weight @ hidden + dynamic.fc2.bias
        weights = (logits / 2.0).softmax(0)
        kernel = sum(w * one for w, one in zip(weights, dynamic.weight, strict=True))
        close(y, F.conv2d(image, kernel, weights @ dynamic.bias, padding=1))
    dynamic.temperature = 1e9
    close(dynamic(x), F.conv2d(x, dynamic.weight.mean(0), dynamic.bias.mean(0), padding=1), 1e-8)
    dynamic.temperature = 1e-9
    with torch.no_grad():
        dynamic.fc2.weight.zero_()
    winner = dynamic.fc2.bias.argmax()
    close(dynamic(x), F.conv2d(x, dynamic.weight[winner], dynamic.bias[winner], padding=1))


def fixed_kernels(operator: Any) -> torch.Tensor:
    """Make the generated kernels independent of the input: those of ``conv2.bias``, (groups, K, K)."""
    with torch.no_grad():
        operator.conv2.weight.zero_()
    return operator.conv2.bias.reshape(-1, operator.kernel_size, operator.kernel_size)


@in_both
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"variant": "inhomogeneous"}, {"variant": "inhomogeneous", "group_channels": 3}]
)
def test_d_dw_conv_with_fixed_kernels_is_a_depthwise_convolution(package, options, training):
    dynamic = drawn(package.DynamicDepthwiseConv2d(6, kernel_size=5, **options)).train(training)
    kernels = fixed_kernels(dynamic).repeat_interleave(options.get("group_channels", 1), 0)
    x = randn(2, 6, 7, 4)
    close(dynamic(x), F.conv2d(x, kernels[:, None], dynamic.bias, padding=2, groups=6))


@in_both
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_involution_with_fixed_kernels_is_a_depthwise_convolution(package, stride):
    involution = drawn(package.Involution2d(6, kernel_size=3, group_channels=2, stride=stride))
    kernels = fixed_kernels(involution).repeat_interleave(2, 0)
    x = randn(2, 6, 6, 12)
    close(involution(x), F.conv2d(x, kernels[:, None], padding=1, stride=stride, groups=6))


@in_both
def test_involution_is_inhomogeneous_d_dw_conv_without_bias(package):
    involution = drawn(package.Involution2d(6, kernel_size=3, group_channels=2))
    other = package.DynamicDepthwiseConv2d(6, kernel_size=3, variant="inhomogeneous", group_channels=2, bias=False)
    x = randn(2, 6, 5, 4)
    close(drawn(other, involution)(x), involution(x))


@in_both
def test_kernels_are_generated_as_the_definition_says(package):
    """The kernel of the centre tap alone: y = W(x_i) x_i, with W through BatchNorm and ReLU."""
    involution = drawn(package.Involution2d(4, kernel_size=1, group_channels=2, reduction=2))
    x = randn(2, 4, 3, 5)
    mean, var = involution.bn.running_mean, involution.bn.running_var
    hidden = torch.einsum("oc,bchw->bohw", involution.conv1.weight, x)
    hidden = F.batch_norm(hidden, mean, var, involution.bn.weight, involution.bn.bias).relu()
    kernels = torch.einsum("oc,bchw->bohw", involution.conv2.weight, hidden) + involution.conv2.bias[:, None, None]
    close(involution(x), kernels.repeat_interleave(2, 1) * x)
