"""Properties that need no second implementation: symmetries, determinism, and what a module of PyTorch has to be."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from equiv import conv, matmul
from equiv.catalogue import PAIRS, find
from equiv.testing.strategies import OPERATORS, Drawn, cases, dtypes, runs

FORMS = ("matmul", "literal", "fused")
CATALOGUE = [
    pytest.param(Drawn(case.shape, case.args, case.options, case.training, operator=pair.name), id=f"{pair.name}-{i}")
    for pair in PAIRS
    for i, case in enumerate(pair.cases)
]
forms = pytest.mark.parametrize("form", FORMS)
forms_of_cases = pytest.mark.parametrize("drawn", CATALOGUE)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal up to float64 rounding, also where a LayerNorm divides roundings of large logits by √eps."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9 * max(1.0, want.abs().max().item()))


# ---- symmetries ------------------------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("operator", ["GlobalAttention", "LinearAttention", "DepthwiseAttention"])
def test_attention_without_positions_commutes_with_permutations(form, operator):
    def bare(drawn):  # not by a filter, which Hypothesis gives up on when too little passes
        return dataclasses.replace(drawn, options={k: v for k, v in drawn.options.items() if k != "relative_position"})

    without = cases(operator).map(bare)

    @given(without, st.randoms(use_true_random=False))
    def equivariant(drawn, random):
        x, attention = drawn.values(), drawn.build(form)
        order = random.sample(range(x.shape[1]), x.shape[1])
        close(attention(x[:, order]), attention(x)[:, order])

    equivariant()


@forms
def test_a_relative_position_breaks_the_permutation(form):
    drawn = Drawn((1, 6, 4), (4, 2), {"relative_position": (2, 3)}, operator="GlobalAttention")
    x, attention = drawn.values(), drawn.build(form)
    assert (attention(x.flip(1)) - attention(x).flip(1)).abs().max() > 1e-3


@forms
@given(drawn=cases("LinformerAttention"), random=st.randoms(use_true_random=False))
def test_linformer_commutes_with_permutations_of_tokens_and_mixing(form, drawn, random):
    x, attention = drawn.values(), drawn.build(form)
    order = random.sample(range(x.shape[1]), x.shape[1])
    y = attention(x)
    with torch.no_grad():
        for mixing in (attention.mix_key, attention.mix_value):
            if mixing is not None:
                mixing.copy_(mixing[..., order])
    close(attention(x[:, order]), y[:, order])


@forms
@given(drawn=cases())
def test_images_of_a_batch_are_independent(form, drawn):
    """In evaluation mode, each image's output is the one that it has alone."""
    x, operator = drawn.values(), drawn.build(form).eval()
    close(operator(x), torch.cat([operator(image[None]) for image in x]))


# ---- parameters and checkpoints --------------------------------------------------------------------------------------


@forms_of_cases
def test_the_same_seed_gives_the_same_parameters(drawn):
    states = []
    for form in FORMS:
        torch.manual_seed(3)
        states.append(find(drawn.operator).build(form, drawn).state_dict())
    for state in states[1:]:
        assert list(state) == list(states[0])
        for name, tensor in state.items():
            assert torch.equal(tensor, states[0][name]), name


@forms
@forms_of_cases
def test_parameters_are_drawn_each_for_itself(form, drawn):
    """No matrix is constant, none is a copy of another, and all keep to the distribution's bounds."""
    torch.manual_seed(0)
    operator = find(drawn.operator).build(form, drawn)
    matrices = {name: p for name, p in operator.named_parameters() if p.dim() > 1 and p.numel() > 1}
    for name, parameter in matrices.items():
        assert parameter.std() > 0, name
        if name.endswith("weight"):
            fan_in = math.prod(parameter.shape[2:] if parameter.dim() == 5 else parameter.shape[1:])
            assert parameter.abs().max() <= fan_in**-0.5, name


@pytest.mark.parametrize(("source", "target"), [("matmul", "literal"), ("literal", "matmul"), ("matmul", "fused")])
@pytest.mark.parametrize("as_convolutions", [False, True])
@given(drawn=cases())
def test_a_checkpoint_of_one_form_loads_into_the_other(source, target, as_convolutions, drawn):
    """Also one whose static 1×1 weights are (out, in, 1, 1); the caller's tensors stay as they are."""
    first, second = drawn.build(source), find(drawn.operator).build(target, drawn).double()
    state = first.state_dict()
    names = [name for name in state if name.endswith(".weight") and state[name].dim() == 2]
    assert names
    if as_convolutions:
        state |= {name: state[name][:, :, None, None] for name in names}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    second.load_state_dict(state)
    assert {name: tensor.shape for name, tensor in state.items()} == shapes
    returned = second.state_dict()
    assert list(returned) == list(first.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(returned[name], tensor)
    close(second(drawn.values()), first(drawn.values()))


@forms
def test_a_convolution_of_another_size_does_not_load(form):
    drawn = Drawn((1, 3, 4), (4, 2), operator="LinearAttention")
    operator = drawn.build(form)
    state = dict(operator.state_dict())
    state["proj.weight"] = torch.zeros(4, 1, 2, 2)  # as many numbers as it needs
    with pytest.raises(RuntimeError, match=r"size mismatch for proj.weight"):
        operator.load_state_dict(state)


@pytest.mark.parametrize("package", [matmul, conv])
def test_layers_share_a_given_mixing(package):
    first, second = (package.LinformerAttention(4, 2, tokens=3, rank=2, sharing="layerwise") for _ in range(2))
    assert not torch.equal(first.mix_key, second.mix_key)
    shared = package.LinformerAttention(4, 2, tokens=3, rank=2, sharing="layerwise", mixing=first.mix_key)
    assert shared.mix_key is first.mix_key
    x = torch.randn(1, 3, 4)
    (first(x) + shared(x)).sum().backward()
    together = first.mix_key.grad.clone()
    first.mix_key.grad = None
    first(x).sum().backward()
    assert not torch.equal(together, first.mix_key.grad)


# ---- modules ---------------------------------------------------------------------------------------------------------


@forms
@given(run=runs())
def test_a_call_changes_nothing_and_returns_memory_of_its_own(form, run):
    drawn, dtype = run
    x, operator = drawn.input(dtype), drawn.build(form, dtype)
    values, version = x.clone(), x._version
    buffers = {name for name, _ in operator.named_buffers()} if drawn.training else set()
    state = {name: tensor.clone() for name, tensor in operator.state_dict().items() if name not in buffers}
    y = operator(x)
    assert torch.equal(x, values)
    assert x._version == version
    for name, tensor in state.items():
        assert torch.equal(operator.state_dict()[name], tensor), name
    others = [x, *operator.parameters(), *operator.buffers()]
    assert y.untyped_storage().data_ptr() not in {other.untyped_storage().data_ptr() for other in others}
    assert (y.shape[0], y.dtype) == (x.shape[0], dtype)


@forms
@given(run=runs())
def test_a_second_call_gives_the_same_bits(form, run):
    drawn, dtype = run
    x, operator = drawn.input(dtype), drawn.build(form, dtype)
    with torch.no_grad():
        assert torch.equal(operator(x).nan_to_num(), operator(x).nan_to_num())


@forms
@given(run=runs())
def test_the_memory_layout_does_not_matter(form, run):
    drawn, dtype = run
    x, operator = drawn.input(dtype), drawn.build(form, dtype).double()
    close(operator(x.double()), operator(x.double().contiguous().clone()))


@forms
@forms_of_cases
def test_copies_behave_as_the_original(form, drawn):
    """``deepcopy``, ``pickle``, ``torch.save``: the same output, and parameters of their own."""
    original, x = drawn.build(form), drawn.values()
    file = io.BytesIO()
    torch.save(original, file)
    file.seek(0)
    copies = [copy.deepcopy(original), pickle.loads(pickle.dumps(original)), torch.load(file, weights_only=False)]
    before = original(x)
    for other in copies:
        assert repr(other) == repr(original)
        assert other.training == drawn.training
        assert torch.equal(other(x), before)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert torch.equal(original(x), before)


@forms
@forms_of_cases
@given(dtype=dtypes())
def test_to_converts_all_of_the_module(form, drawn, dtype):
    operator = drawn.build(form).to(dtype)
    assert operator(drawn.values().to(dtype)).dtype is dtype
    again = getattr(matmul if form == "matmul" else conv, drawn.operator)(*drawn.args, dtype=dtype, **drawn.options)
    assert {p.dtype for p in operator.parameters()} == {p.dtype for p in again.parameters()} == {dtype}


@forms_of_cases
def test_options_are_attributes_of_the_same_values_in_both_forms(drawn):
    operators = [find(drawn.operator).build(form, drawn) for form in FORMS]
    options = inspect.signature(type(operators[0])).parameters.keys() - {"device", "dtype", "bias", "mixing"}
    for name in options:
        values = [getattr(operator, name) for operator in operators]
        assert values[0] == values[1] == values[2], name
        expected = drawn.options.get(name, values[0])
        assert values[0] == ((expected, expected) if name == "shift" and isinstance(expected, int) else expected)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["matmul", "literal"])
@forms_of_cases
def test_first_and_second_derivatives(form, drawn):
    """By the input and all parameters, against finite differences of random directions."""
    operator = drawn.build(form)
    names = [name for name, _ in operator.named_parameters()]
    inputs = [drawn.values().requires_grad_(), *(p.detach().clone().requires_grad_() for p in operator.parameters())]
    buffers = dict(operator.named_buffers())

    def function(x, *parameters):
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}  # running statistics change
        return torch.func.functional_call(operator, dict(zip(names, parameters, strict=True)) | fresh, x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradcheck's own use of torch
        gradcheck(function, inputs, fast_mode=True)
        gradgradcheck(function, inputs, fast_mode=True)


@forms
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_parameter_has_an_effect(form, operator):
    """No dead parameters: each of them has a gradient somewhere."""

    @given(cases(operator).map(lambda drawn: dataclasses.replace(drawn, training=False, pattern="normal")))
    def alive(drawn):
        module: nn.Module = drawn.build(form)
        module(drawn.values()).square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, (str(drawn), name)

    alive()
