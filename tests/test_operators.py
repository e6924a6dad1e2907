"""The ten operators: both forms to 1e-12, contractions by convolution alone, and what they are special cases of."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equiv import conv, matmul
from equiv.catalogue import LOWERINGS, PAIRS, example_input
from equiv.ladder.draws import draw_weights

CASES = [pytest.param(pair, case, id=f"{pair.name}{case}") for pair in PAIRS for case in pair.cases]
CONVOLUTIONS = {
    "convolution",
    "_convolution",
    "mkldnn_convolution",
    "conv2d",
    "_slow_conv2d_forward",
    "conv_depthwise2d",
}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "matmul", "linear", "einsum", "dot", "mv", "addmv", "vdot"}


def generator():
    return torch.Generator().manual_seed(0)


def double(module):
    """``module`` in float64, with weights that hide nothing."""
    module = module.double()
    draw_weights(module, generator())
    return module


def sharing(module, other):
    """``module`` with the weights of ``other``."""
    module = module.double()
    module.load_state_dict(other.state_dict())
    return module


def assert_close(got, want, tolerance=1e-12):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


# Both forms


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("pair", "case"), CASES)
def test_values_agree_to_1e_12(pair, case, lowering):
    reference = double(pair.build("matmul", case))
    x = example_input(case, generator())
    assert_close(sharing(pair.build(lowering, case), reference)(x), reference(x))


@pytest.mark.parametrize(("pair", "case"), CASES)
def test_parameters_have_the_same_names_shapes_and_initial_values(pair, case):
    states = []
    for form in ("matmul", *LOWERINGS):
        torch.manual_seed(0)
        states.append(pair.build(form, case).state_dict())
    for other in states[1:]:
        assert list(other) == list(states[0])
        assert all(torch.equal(tensor, states[0][name]) for name, tensor in other.items())


@pytest.mark.parametrize("name", matmul.__all__)
def test_constructors_differ_by_the_lowering_alone(name):
    left, right = (inspect.signature(getattr(form, name)).parameters for form in (matmul, conv))
    described = {key: (parameter.kind, parameter.default) for key, parameter in right.items()}
    assert described.pop("lowering") == (inspect.Parameter.KEYWORD_ONLY, "fused")
    assert described == {key: (parameter.kind, parameter.default) for key, parameter in left.items()}


# Contractions


class Trace(TorchDispatchMode):
    """Records the names of the ATen operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def products(self):
        return {name for name in self.names if name in PRODUCTS or "attention" in name}

    def convolutions(self):
        return [name for name in self.names if name in CONVOLUTIONS]


def trace(module, x):
    with Trace() as found:
        module(x)
    return found


@pytest.mark.parametrize(("pair", "case"), CASES)
def test_contractions_of_literal_forms_are_convolutions(pair, case):
    found = trace(pair.build("literal", case), example_input(case, generator()).float())
    assert found.products() == set()
    assert len(found.convolutions()) >= 3  # static, dynamic, static; two that predict kernels, and theirs


@pytest.mark.parametrize(("pair", "case"), CASES)
def test_matmul_forms_convolve_nothing(pair, case):
    found = trace(pair.build("matmul", case), example_input(case, generator()).float())
    assert found.convolutions() == []
    assert found.products()


def test_the_trace_sees_what_it_must():
    x = torch.randn(1, 2, 3, 4)
    assert trace(lambda x: x @ x.mT, x).products() == {"bmm"}
    assert trace(lambda x: torch.einsum("bhnd,bhmd->bhnm", x, x), x).products() == {"bmm"}
    assert trace(lambda x: F.linear(x[0, 0], x[0, 1]), x).products() == {"mm"}
    assert trace(nn.Linear(4, 4), x[0, 0]).products() == {"addmm"}
    assert trace(lambda x: F.scaled_dot_product_attention(x, x, x), x).products()
    assert trace(lambda x: F.conv2d(x, x.transpose(0, 1)[:, :1].expand(2, 2, 3, 4)), x).convolutions() == [
        "convolution"
    ]


# Merged kernels (Fig. 5, Eq. 4)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("activation", ["scaling", "none"])
@pytest.mark.parametrize(
    "options", [{}, {"relative_position": (2, 3)}, {"relative_position": (1, 5), "class_token": True}]
)
def test_merged_global_attention(activation, options, lowering):
    pair = double(conv.GlobalAttention(8, 2, activation=activation, lowering=lowering, **options))
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    merged = conv.merge_attention(pair)
    assert type(merged) is conv.LinearAttention
    assert merged.qkv is pair.qkv  # the parameters are shared, not copied
    assert_close(merged(x), pair(x))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    "options", [{}, {"shift": 1}, {"shift": (2, 1), "relative_position": False, "qkv_bias": False}]
)
def test_merged_window_attention(options, lowering):
    pair = double(conv.WindowAttention(8, 2, window=3, activation="scaling", lowering=lowering, **options))
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    merged = conv.merge_attention(pair)
    assert type(merged) is conv.LinearWindowAttention
    assert_close(merged(x), pair(x))


def test_merged_kernels_of_a_pair():
    q, k, v = (torch.randn(2, 3, n, d, dtype=torch.float64) for n, d in ((7, 4), (5, 4), (5, 6)))
    bias = torch.randn(3, 7, 5, dtype=torch.float64)
    kernel, through = conv.merge_kernels(k, v, bias)
    assert kernel.shape == (2, 3, 4, 6)
    assert through is not None
    assert_close(q @ kernel + through, (q @ k.mT + bias) @ v)
    kernel, through = conv.merge_kernels(k, v)
    assert through is None
    assert_close(q @ kernel, (q @ k.mT) @ v)


@pytest.mark.parametrize("first_bias", [True, False])
@pytest.mark.parametrize("second_bias", [True, False])
def test_merged_static_kernels(first_bias, second_bias):
    first = double(nn.Conv2d(3, 8, 1, stride=2, bias=first_bias))
    second = double(nn.Conv2d(8, 5, 1, stride=(1, 3), bias=second_bias))
    merged = conv.merge_static(first, second)
    x = torch.randn(2, 3, 9, 13, dtype=torch.float64)
    assert merged.stride == (2, 6)
    assert (merged.bias is None) == (not first_bias and not second_bias)
    assert_close(merged(x), second(first(x)))


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (ValueError, "`attention.activation`='softmax'", lambda: conv.merge_attention(conv.GlobalAttention(8, 2))),
        (
            ValueError,
            "`attention.activation`='scaling_relu'",
            lambda: conv.merge_attention(conv.WindowAttention(8, 2, activation="scaling_relu")),
        ),
        (TypeError, "`attention`='DynamicConv2d'", lambda: conv.merge_attention(conv.DynamicConv2d(4))),
        (ValueError, "`second`=", lambda: conv.merge_kernels(torch.zeros(5, 4), torch.zeros(6, 4))),
        (ValueError, "`bias`=", lambda: conv.merge_kernels(torch.zeros(5, 4), torch.zeros(5, 4), torch.zeros(7, 4))),
        (TypeError, "`first`='Linear'", lambda: conv.merge_static(nn.Linear(3, 8), nn.Conv2d(8, 5, 1))),
        (ValueError, "`second`=", lambda: conv.merge_static(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3))),
        (ValueError, "`second`=", lambda: conv.merge_static(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=2))),
        (ValueError, "`second`=", lambda: conv.merge_static(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1, padding=1))),
        (ValueError, "`second`=", lambda: conv.merge_static(nn.Conv2d(3, 8, 1), nn.Conv2d(7, 5, 1))),
    ],
)
def test_what_cannot_be_merged_is_refused(error, text, call):
    with pytest.raises(error, match=text):
        call()


# Special cases of each other


@pytest.fixture(params=[matmul, conv], ids=["matmul", "conv"])
def form(request):
    return request.param


def test_linear_attention_is_attention_with_scaling(form):
    options = {"relative_position": (2, 2), "class_token": True}
    linear = double(form.LinearAttention(8, 2, **options))
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert_close(sharing(form.GlobalAttention(8, 2, activation="scaling", **options), linear)(x), linear(x))


def test_linformer_without_mixing_is_attention(form):
    attention = double(form.GlobalAttention(8, 2))
    linformer = form.LinformerAttention(8, 2, tokens=5, rank=5).double()
    linformer.load_state_dict({**attention.state_dict(), "mix_key": torch.eye(5), "mix_value": torch.eye(5)})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert_close(linformer(x), attention(x))


def test_one_window_is_global_attention(form):
    window = double(form.WindowAttention(8, 2, window=4, shift=2))  # not shifted: one window covers the map
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    y = sharing(form.GlobalAttention(8, 2, relative_position=(4, 4)), window)(x.flatten(2).mT)
    assert_close(window(x).flatten(2).mT, y)


def test_a_mask_far_below_the_logits_excludes(form):
    soft = double(form.WindowAttention(8, 2, window=3, shift=1, mask_value=-1e4))
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    assert_close(sharing(form.WindowAttention(8, 2, window=3, shift=1), soft)(x), soft(x))


def test_one_kernel_is_a_static_convolution(form):
    dynamic = double(form.DynamicConv2d(4, out_channels=6, kernels=1, stride=2, groups=2))
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    assert_close(dynamic(x), F.conv2d(x, dynamic.weight[0], dynamic.bias[0], stride=2, padding=1, groups=2))


def test_a_low_temperature_selects_one_kernel(form):
    dynamic = double(form.DynamicConv2d(4, temperature=1e-9))
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    z = F.linear(F.linear(x.mean((2, 3)), dynamic.fc1.weight, dynamic.fc1.bias).relu(), *dynamic.fc2.parameters())
    best = int(z.argmax())
    assert_close(dynamic(x), F.conv2d(x, dynamic.weight[best], dynamic.bias[best], padding=1))


@pytest.mark.parametrize("variant", ["homogeneous", "inhomogeneous"])
def test_a_generator_that_ignores_its_input_gives_a_static_depthwise_convolution(form, variant):
    dynamic = double(form.DynamicDepthwiseConv2d(4, kernel_size=3, variant=variant)).eval()
    nn.init.zeros_(dynamic.conv2.weight)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    kernel = dynamic.conv2.bias.reshape(4, 1, 3, 3)
    assert_close(dynamic(x), F.conv2d(x, kernel, dynamic.bias, padding=1, groups=4))


def test_an_involution_that_ignores_its_input_is_a_depthwise_convolution(form):
    involution = double(form.Involution2d(4, kernel_size=3, stride=2, group_channels=2)).eval()
    nn.init.zeros_(involution.conv2.weight)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    kernel = involution.conv2.bias.reshape(2, 1, 3, 3).repeat_interleave(2, 0)
    assert_close(involution(x), F.conv2d(x, kernel, stride=2, padding=1, groups=4))


def test_layerwise_sharing_shares_one_parameter(form):
    first = form.LinformerAttention(8, 2, tokens=5, rank=3, sharing="layerwise")
    second = form.LinformerAttention(8, 2, tokens=5, rank=3, sharing="layerwise", mixing=first.mix_key)
    assert second.mix_key is first.mix_key
    assert len(list(nn.ModuleList([first, second]).parameters())) == 2 * 4 + 1


def test_the_paper_has_six_activations(form):
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    attention = double(form.GlobalAttention(8, 2))
    found = [
        sharing(form.GlobalAttention(8, 2, activation=activation), attention)(x)
        for activation in ("softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu")
    ]
    for index, left in enumerate(found):
        for right in found[:index]:
            assert (left - right).abs().max() > 1e-3


def test_attention_by_hand(form):
    """Two tokens, one head of one channel, all weights 1 and no bias: worked out on paper."""
    attention = form.GlobalAttention(1, 1, qkv_bias=False).double()
    for parameter in attention.parameters():
        nn.init.ones_(parameter)
    nn.init.zeros_(attention.proj.bias)
    x = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    # logits of token 0: (0, 0); of token 1: (0, 1); values (0, 1)
    want = torch.tensor([[[1 / 2], [math.e / (1 + math.e)]]], dtype=torch.float64)
    assert_close(attention(x), want)
