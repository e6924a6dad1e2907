"""The operators themselves: both forms equal in float64, what they contract with, and identities between operators."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equiv import conv, matmul
from equiv.catalogue import LOWERINGS, PAIRS
from equiv.testing.strategies import OPERATORS, Drawn

CASES = [
    pytest.param(Drawn(case.shape, case.args, case.options, case.training, operator=pair.name), id=f"{pair.name}-{i}")
    for pair in PAIRS
    for i, case in enumerate(pair.cases)
]
of_cases = pytest.mark.parametrize("drawn", CASES)
of_operators = pytest.mark.parametrize("operator", OPERATORS)
in_both = pytest.mark.parametrize("package", [matmul, conv], ids=["matmul", "conv"])


def deviation(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, relative to the largest element."""
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.abs().max()).item()


def gradients(operator: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output and the gradients of a fixed functional of it."""
    x = x.clone().requires_grad_()
    y = operator(x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=y.dtype)
    names, parameters = zip(*operator.named_parameters(), strict=True)
    found = torch.autograd.grad(y, [x, *parameters], cotangent)
    return {"output": y.detach(), **dict(zip(("input", *names), found, strict=True))}


# ---- both forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowering", LOWERINGS)
@of_cases
def test_both_forms_agree_to_1e_12_in_float64(drawn, lowering):
    got, want = (gradients(drawn.build(form), drawn.values()) for form in (lowering, "matmul"))
    assert got.keys() == want.keys()
    largest = max(tensor.abs().max() for name, tensor in want.items() if name != "output")
    assert deviation(got["output"], want["output"]) <= 1e-12
    for name in want.keys() - {"output"}:  # of a gradient that cancels, only the rounding of its terms is left
        assert (got[name] - want[name]).abs().max() <= 1e-12 * largest, name


@of_operators
def test_signatures_agree_but_for_the_lowering(operator):
    ours, other = (inspect.signature(getattr(package, operator)).parameters for package in (conv, matmul))
    assert {name: (p.kind, p.default) for name, p in ours.items() if name != "lowering"} == {
        name: (p.kind, p.default) for name, p in other.items()
    }
    assert [name for name in ours if name != "lowering"] == list(other)
    assert list(ours)[-3:] == ["lowering", "device", "dtype"]
    assert ours["lowering"].default == "fused"
    for package in (conv, matmul):
        assert list(inspect.signature(getattr(package, operator).forward).parameters) == ["self", "x"]


@of_cases
def test_states_agree_in_names_shapes_and_order(drawn):
    states = [drawn.build(form).state_dict() for form in ("matmul", *LOWERINGS)]
    shapes = [[(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()] for state in states]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(
        state[name].dim() == 2 for state in states for name in state if name.endswith(("qkv.weight", "c1.weight"))
    )


# ---- what they contract with -----------------------------------------------------------------------------------------

PRODUCTS = {
    *("mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "addr", "mv", "dot", "vdot", "inner", "ger", "outer"),
    *("matmul", "einsum", "linear", "mkldnn_linear", "tensordot", "bilinear", "_trilinear", "kron", "chain_matmul"),
}


def is_product(name: str) -> bool:
    return name in PRODUCTS or "attention" in name or "_addmm" in name or "_mm" in name


def is_convolution(name: str) -> bool:
    return "conv" in name and "backward" not in name


class Trace(TorchDispatchMode):
    """Counts the ATen operators that run, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def trace(operator: nn.Module, x: torch.Tensor) -> Counter[str]:
    with Trace() as mode:
        operator(x.clone().requires_grad_()).square().sum().backward()
    return mode.names


def products(names: Counter[str]) -> set[str]:
    return {name for name in names if is_product(name)}


def convolutions(names: Counter[str]) -> int:
    return sum(count for name, count in names.items() if is_convolution(name))


@of_cases
def test_literal_forms_contract_by_convolutions_only(drawn):
    """Two or more static convolutions, and a pair of dynamic ones; depth-wise and K×K operators need just one."""
    names = trace(drawn.build("literal"), drawn.values())
    assert not products(names)
    pairs = drawn.operator in ("GlobalAttention", "WindowAttention", "LinformerAttention") or "Linear" in drawn.operator
    assert convolutions(names) >= 2 + (2 if pairs else 1)
    assert names["convolution_backward"] == convolutions(names)
    with Trace() as forward, torch.no_grad():
        drawn.build("literal")(drawn.values())
    assert not {"sum", "cumsum", "prod"} & set(forward.names)  # nor by products summed up


@of_cases
def test_matmul_forms_contain_no_convolution(drawn):
    names = trace(drawn.build("matmul"), drawn.values())
    assert not convolutions(names)
    assert not names["convolution_backward"]
    assert products(names)


@pytest.mark.parametrize(
    "contract",
    [
        lambda x: x @ x,
        lambda x: x[0] @ x[0],
        lambda x: x[0] @ x[0, 0],
        lambda x: x[0, 0] @ x[0, 0],
        lambda x: torch.einsum("bij,bjk->bik", x, x),
        lambda x: torch.einsum("ij,ij->", x[0], x[0]),
        lambda x: torch.tensordot(x, x, 1),
        lambda x: F.linear(x, x[0]),
        lambda x: F.linear(x, x[0], x[0, 0]),
        lambda x: torch.addmm(x[0], x[0], x[0]),
        lambda x: torch.baddbmm(x, x, x),
        lambda x: F.bilinear(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
        nn.MultiheadAttention(4, 2).double().eval(),
    ],
)
def test_the_trace_notices_products(contract):
    x = torch.randn(4, 4, 4, dtype=torch.float64)
    with Trace() as mode:
        contract(x, x, x) if isinstance(contract, nn.Module) else contract(x)
    assert products(mode.names), mode.names


@pytest.mark.parametrize("convolve", [F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d])
def test_the_trace_notices_convolutions(convolve):
    dims = int(convolve.__name__[-2])
    with Trace() as mode:
        convolve(torch.randn(1, 2, *[3] * dims), torch.randn(2, 2, *[1] * dims))
    assert convolutions(mode.names) == 1


def test_the_trace_sees_the_backward_pass():
    names = trace(nn.Linear(3, 2), torch.randn(2, 3))
    assert names["addmm"] == 1
    assert names["mm"] >= 1


# ---- options ---------------------------------------------------------------------------------------------------------

#: An operator with options (shape, positional arguments, options) and, for each option, another value.
OPTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "GlobalAttention": (
        (2, 13, 8), (8, 2), {"relative_position": (3, 4), "class_token": True},
        {"activation": "scaling", "qkv_bias": False, "relative_position": None, "class_token": False},
    ),
    "WindowAttention": (
        (2, 8, 6, 9), (8, 2), {"window": 3, "shift": 1},
        {"window": 4, "shift": 2, "mask_value": -1.0, "activation": "none", "qkv_bias": False,
         "relative_position": False},
    ),
    "LinformerAttention": (
        (2, 6, 8), (8, 2), {"tokens": 6, "rank": 3},
        {"tokens": 5, "rank": 2, "sharing": "none", "activation": "layernorm", "qkv_bias": False,
         "mixing": nn.Parameter(torch.zeros(3, 6))},
    ),
    "LinearAttention": (
        (2, 13, 8), (8, 2), {"relative_position": (3, 4), "class_token": True},
        {"activation": "none", "qkv_bias": False, "relative_position": None, "class_token": False},
    ),
    "LinearWindowAttention": (
        (2, 8, 6, 9), (8, 2), {"window": 3, "shift": 1},
        {"window": 4, "shift": 0, "activation": "none", "qkv_bias": False, "relative_position": False},
    ),
    "DepthwiseAttention": (
        (2, 13, 8), (8, 2), {"relative_position": (3, 4), "class_token": True},
        {"bias_table": "channel", "values": "q", "qkv_bias": False, "relative_position": None, "class_token": False},
    ),
    "DepthwiseWindowAttention": (
        (2, 8, 6, 9), (8, 2), {"window": 3, "shift": 1},
        {"window": 4, "shift": (1, 0), "bias_table": "channel", "values": "x", "qkv_bias": False,
         "relative_position": False},
    ),
    "DynamicConv2d": (
        (2, 8, 9, 7), (8,), {"temperature": 1.0},
        {"out_channels": 4, "kernel_size": 5, "stride": 2, "padding": 0, "dilation": 2, "groups": 2, "kernels": 2,
         "reduction": 2, "temperature": 2.0, "bias": False},
    ),
    "DynamicDepthwiseConv2d": (
        (2, 8, 9, 7), (8,), {"kernel_size": 3, "variant": "inhomogeneous"},
        {"kernel_size": 5, "variant": "homogeneous", "group_channels": 2, "reduction": 2, "bias": False},
    ),
    "Involution2d": (
        (2, 8, 6, 4), (8,), {"kernel_size": 3, "group_channels": 4},
        {"kernel_size": 5, "stride": 2, "group_channels": 2, "reduction": 2},
    ),
}  # fmt: skip


def test_the_table_names_every_option():
    for operator, (_, _, _, others) in OPTIONS.items():
        parameters = inspect.signature(getattr(matmul, operator)).parameters
        named = {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert others.keys() == named - {"device", "dtype"}
    assert set(OPTIONS) == set(OPERATORS)


@in_both
@pytest.mark.parametrize(("operator", "name"), [(key, name) for key, value in OPTIONS.items() for name in value[3]])
def test_every_option_has_an_effect(package, operator, name):
    """Another value gives another output with the same parameters, or parameters of other shapes, or is refused."""
    shape, args, options, others = OPTIONS[operator]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    make = getattr(package, operator)
    base = make(*args, dtype=torch.float64, **options).eval()
    for index, parameter in enumerate(base.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    state = base.state_dict()
    y, changed = None, []
    try:
        other = make(*args, dtype=torch.float64, **{**options, name: others[name]}).eval()
        changed = [key for key in state if state[key].shape != getattr(other.state_dict().get(key), "shape", None)]
        other.load_state_dict({key: tensor for key, tensor in state.items() if key not in changed}, strict=False)
        y = other(x)
    except (TypeError, ValueError) as error:
        refusal = str(error)
    if y is None:
        assert f"`{name}`" in refusal or "`x`" in refusal
        return
    want = base(x)
    assert changed or y.shape != want.shape or (y - want).abs().max() > 1e-3 * want.abs().max()


@in_both
@pytest.mark.parametrize("operator", ["GlobalAttention", "LinearAttention", "DepthwiseAttention"])
def test_a_class_token_without_positions_changes_nothing(package, operator):
    """The one option that may be without effect, as documented: only positions tell the class token from others."""
    x = torch.randn(2, 5, 8)
    first, second = (getattr(package, operator)(8, 2, class_token=token) for token in (False, True))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
