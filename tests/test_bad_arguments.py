"""Wrong constructor arguments are refused by a message that names the argument, and by all forms alike.

The message says what was got and what was expected: "`name`=got, but should be expected [Operator]".
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from equiv import matmul
from equiv.testing.strategies import OPERATORS, cases
from tests.refusals import EXAMPLES, FORMS, make, none, refusal, refused_by_all, things

of_operators = pytest.mark.parametrize("operator", OPERATORS)

# ---- constructors: each argument by itself ---------------------------------------------------------------------------

not_integers = things | st.booleans() | st.floats()

sizes = not_integers | none | st.integers(max_value=0)
flags = things | none | st.integers() | st.floats()
choices = things | none | st.booleans() | st.integers()

#: Wrong values of each argument, for every operator that has it.
WRONG: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("dim", "heads", "channels", "window", "tokens", "rank", "kernel_size", "stride"), sizes),
    **dict.fromkeys(("dilation", "groups", "kernels", "reduction"), sizes),
    **dict.fromkeys(("out_channels", "group_channels"), not_integers | st.integers(max_value=0)),
    "padding": not_integers | st.integers(max_value=-1),
    **dict.fromkeys(("qkv_bias", "class_token", "bias"), flags),
    **dict.fromkeys(("activation", "sharing", "bias_table", "values", "variant"), choices),
    "shift": things | none | st.booleans() | st.floats() | st.integers(max_value=-1)
    | st.tuples(st.integers(max_value=-1), st.just(0)) | st.tuples(st.just(0), not_integers) | st.tuples(st.just(0)),
    "mask_value": things | none | st.booleans() | st.just(math.nan) | st.floats(min_value=0) | st.integers(min_value=0),
    "temperature": things | none | st.booleans() | st.just(math.nan) | st.just(math.inf) | st.floats(max_value=0)
    | st.integers(max_value=0),
    "mixing": things | st.booleans() | st.just(torch.zeros(2, 2)) | st.just(nn.Parameter(torch.zeros(0, 2))),
}  # fmt: skip
GRIDS = things | st.booleans() | st.integers() | st.tuples(st.integers(max_value=0), st.just(2))
GRIDS |= st.tuples(st.just(2), not_integers) | st.tuples(*[st.just(2)] * 3) | st.tuples(st.floats(), st.just(1))


def arguments(operator: str) -> list[str]:
    return [name for name in inspect.signature(getattr(matmul, operator)).parameters if name not in ("device", "dtype")]


def wrong(operator: str, name: str) -> st.SearchStrategy[Any]:
    if name == "relative_position":
        return flags | st.tuples(st.just(2), st.just(2)) if "Window" in operator else GRIDS
    return WRONG[name] | none if (operator, name) == ("Involution2d", "group_channels") else WRONG[name]


def is_pair_of_integers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


@pytest.mark.parametrize(
    ("operator", "name"), [(operator, name) for operator in OPERATORS for name in arguments(operator)]
)
def test_a_wrong_argument_is_refused(operator, name):
    @given(cases(operator), wrong(operator, name))
    def refused(drawn, value):
        assume(not (name in ("shift", "relative_position") and is_pair_of_integers(value)))
        names = arguments(operator)
        given_ = {**dict(zip(names, drawn.args, strict=False)), **drawn.options, name: value}
        if name == "mixing":
            given_["sharing"] = "layerwise"
        refused_by_all(name, operator, **given_)

    refused()


@given(cases(), things | none | st.booleans() | st.integers())
def test_an_unknown_lowering_is_refused(drawn, value):
    assume(value not in ("fused", "literal") if isinstance(value, str) else True)
    refusal("lowering", drawn.operator, make, drawn.operator, value, *drawn.args, **drawn.options)


FACTORY = [
    ("dtype", torch.int64), ("dtype", torch.bool), ("dtype", torch.complex64), ("dtype", "float32"), ("dtype", 3),
    ("device", "nonsense"), ("device", 3.5), ("device", []),
]  # fmt: skip


@of_operators
@pytest.mark.parametrize(("name", "value"), FACTORY)
def test_a_wrong_dtype_or_device_is_refused(operator, name, value):
    drawn = EXAMPLES[operator]
    refused_by_all(name, operator, *drawn.args, **drawn.options, **{name: value})


# ---- constructors: arguments that do not fit together ----------------------------------------------------------------

HEADED = [operator for operator in OPERATORS if "heads" in arguments(operator)]
WINDOWED = [operator for operator in OPERATORS if "window" in arguments(operator)]


@given(st.sampled_from(HEADED), st.integers(1, 40), st.integers(2, 50))
def test_heads_divide_the_channels(operator, dim, heads):
    assume(dim % heads)
    options = {"tokens": 3, "rank": 2} if operator == "LinformerAttention" else {}
    text = refused_by_all("heads", operator, dim, heads, **options)
    assert f"`heads`={heads}, but should be a divisor of `dim`={dim}" in text


@given(st.sampled_from(WINDOWED), st.integers(1, 9), st.integers(0, 9), st.booleans())
def test_a_shift_is_less_than_the_window(operator, window, more, pair):
    shift = window + more
    refused_by_all("shift", operator, 4, 2, window=window, shift=(0, shift) if pair else shift)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_groups_divide_both_channel_counts(channels, out_channels, groups):
    assume(channels % groups or out_channels % groups)
    refused_by_all("groups", "DynamicConv2d", channels, out_channels=out_channels, groups=groups)


@given(st.sampled_from(["DynamicDepthwiseConv2d", "Involution2d"]), st.integers(1, 12), st.integers(2, 16))
def test_groups_of_channels_divide_them(operator, channels, width):
    assume(channels % width)
    options = {"variant": "inhomogeneous"} if operator == "DynamicDepthwiseConv2d" else {}
    refused_by_all("group_channels", operator, channels, group_channels=width, **options)


@given(st.sampled_from(["DynamicConv2d", "DynamicDepthwiseConv2d", "Involution2d"]), st.integers(1, 9))
def test_a_kernel_without_a_centre_is_refused(operator, half):
    options = {"group_channels": 2} if operator == "Involution2d" else {}
    assert "odd" in refused_by_all("kernel_size", operator, 4, kernel_size=2 * half, **options)


@pytest.mark.parametrize("activation", ["none", "scaling", "scaling_relu", "layernorm", "layernorm_relu"])
def test_a_finite_mask_needs_softmax(activation):
    refused_by_all("mask_value", "WindowAttention", 4, 2, mask_value=-100.0, activation=activation)


@pytest.mark.parametrize("operator", ["LinearAttention", "LinearWindowAttention"])
@pytest.mark.parametrize("activation", ["softmax", "scaling_relu", "layernorm", "layernorm_relu"])
def test_linear_attention_takes_linear_activations(operator, activation):
    refused_by_all("activation", operator, 4, 2, activation=activation)


def test_homogeneous_kernels_have_no_groups():
    refused_by_all("group_channels", "DynamicDepthwiseConv2d", 4, group_channels=2)


@pytest.mark.parametrize("sharing", ["none", "headwise", "key_value"])
def test_a_mixing_is_shared_layerwise_only(sharing):
    mixing = nn.Parameter(torch.zeros(2, 3))
    refused_by_all("mixing", "LinformerAttention", 4, 2, tokens=3, rank=2, sharing=sharing, mixing=mixing)


def test_a_mixing_has_the_shape_of_the_layer():
    options = {"tokens": 3, "rank": 2, "sharing": "layerwise", "mixing": nn.Parameter(torch.zeros(3, 2))}
    texts = {
        refusal("mixing", "LinformerAttention", make, "LinformerAttention", form, 4, 2, **options) for form in FORMS
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    "mixing", [torch.zeros(2, 3).double(), torch.zeros(2, 3).long(), torch.zeros(2, 3, device="meta")]
)
def test_a_mixing_has_the_dtype_and_device_of_the_layer(mixing):
    mixing = nn.Parameter(mixing, requires_grad=mixing.is_floating_point())
    refused_by_all("mixing", "LinformerAttention", 4, 2, tokens=3, rank=2, sharing="layerwise", mixing=mixing)


@pytest.mark.parametrize("form", FORMS)
@given(value=WRONG["temperature"])
def test_a_temperature_that_training_spoils_is_refused(form, value):
    module: Any = EXAMPLES["DynamicConv2d"].build(form, torch.float32)
    module.temperature = value
    refusal("temperature", "DynamicConv2d", module, torch.zeros(2, 4, 5, 6))
