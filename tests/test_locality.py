"""Which outputs one input value can reach: exactly those that the operator's definition names, and no other.

Said twice for each operator and form: by changing the value (every other output keeps its bits), and by making it NaN
or infinite (every other output stays finite). The second is the semantics of non-finite inputs:

- Attention over all tokens: NaN reaches all tokens of its image, and so it does in D-Conv and homogeneous D-DW-Conv,
  whose one kernel per image is made from the mean. Other images stay finite (with BatchNorm in training mode they do
  not: it normalises by statistics of the batch).
- Window attention: the locations of the window, or part of a shifted window, that the location is in. The matmul forms
  compute a masked pair too, as in Swin, and multiply the value by 0; as 0·NaN = NaN, a non-finite value, unlike any
  other, reaches the other parts of the window as well. The conv forms never read it.
- Inhomogeneous D-DW-Conv and involution: all channels of the location (its kernel is made from it), and of the K×K
  locations around it only the value's own channel.
- ±∞ reaches no other output than NaN, but may be lost on the way (ReLU of −∞), in both forms alike.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiv.testing.strategies import OPERATORS, PRECISE, Drawn, cases

FORMS = ("matmul", "literal", "fused")
#: Not half types: on a CPU with AMX, PyTorch 2.13's bfloat16 matmul of odd inner size multiplies what follows a row in
#: memory by 0, so that a NaN reaches the row before (ones (18, 9) with NaN at [1, 0], times ones (9, 27)).
DTYPES = st.sampled_from(PRECISE)
PER_IMAGE = ("GlobalAttention", "LinformerAttention", "LinearAttention", "DepthwiseAttention", "DynamicConv2d")


def reach(drawn: Drawn, at: tuple[int, ...], output: torch.Tensor, form: str = "literal") -> torch.Tensor:
    """Which elements of the output depend on the input's element ``at``; of ``form``, if it is not finite."""
    options: dict[str, Any] = {"window": 7, "shift": 0, "kernel_size": 7, "stride": 1} | dict(drawn.options)
    mask = torch.zeros(output.shape, dtype=torch.bool)
    if drawn.training:
        mask[:] = True
    elif drawn.operator in PER_IMAGE or _homogeneous(drawn):
        mask[at[0]] = True
    elif "Window" in drawn.operator:
        wraps = form == "matmul" or options.get("mask_value", -math.inf) != -math.inf
        shift = options["shift"]
        shifts = shift if isinstance(shift, tuple) else (shift, shift)
        rows, cols = (
            windows(drawn.shape[axis], options["window"], by, wraps) for axis, by in zip((2, 3), shifts, strict=True)
        )
        mask[at[0]] = (rows == rows[at[2]])[:, None] & (cols == cols[at[3]])
    else:
        stride, radius = options["stride"], options["kernel_size"] // 2
        near = [
            (stride * torch.arange(size) - position).abs() <= radius
            for size, position in zip(output.shape[2:], at[2:], strict=True)
        ]
        mask[at[0], at[1]] = near[0][:, None] & near[1]
        mask[at[0], :, at[2] // stride, at[3] // stride] = True
    return mask


def _homogeneous(drawn: Drawn) -> bool:
    return drawn.operator == "DynamicDepthwiseConv2d" and drawn.options.get("variant", "homogeneous") == "homogeneous"


def windows(size: int, window: int, shift: int, wraps: bool) -> torch.Tensor:
    """The number of the window, or of the part of a window, that each of ``size`` rows is in."""
    padded = math.ceil(size / window) * window
    shifted = torch.arange(size) - (shift if padded > window else 0)
    return (shifted % padded if wraps else shifted) // window


@st.composite
def places(draw: Any, operator: str) -> tuple[Drawn, tuple[int, ...]]:
    drawn = draw(cases(operator))
    return drawn, tuple(draw(st.integers(0, size - 1)) for size in drawn.shape)


def with_options(drawn: Drawn, **options: Any) -> Drawn:
    return dataclasses.replace(drawn, options={**drawn.options, **options})


def non_finite(place: tuple[Drawn, tuple[int, ...]], dtype: torch.dtype, value: float) -> tuple[Drawn, torch.Tensor]:
    """The case, and its input with one value replaced; the others are so small that nothing overflows."""
    drawn, at = place
    if drawn.operator == "DynamicConv2d":  # a convolution may leave out NaN·0 of padding, but not a NaN bias
        drawn = with_options(drawn, bias=True)
    x = 2**-6 * drawn.values().to(dtype)
    x[at] = value
    return drawn, x


def outputs(drawn: Drawn, form: str, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return drawn.build(form, x.dtype)(x)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_changed_value_changes_nothing_out_of_reach(operator):
    @given(places(operator), DTYPES)
    def local(place, dtype):
        drawn, at = place
        x = drawn.values().to(dtype)
        other = x.clone()
        other[at] += 1
        for form in FORMS:
            y, z = outputs(drawn, form, x), outputs(drawn, form, other)
            outside = ~reach(drawn, at, y)
            assert torch.equal(y[outside], z[outside]), (form, str(drawn), at, dtype)

    local()


@pytest.mark.parametrize("operator", OPERATORS)
def test_nan_reaches_what_the_definition_says(operator):
    @given(places(operator), DTYPES)
    def nan(place, dtype):
        (drawn, x), at = non_finite(place, dtype, math.nan), place[1]
        for form in FORMS:
            y = outputs(drawn, form, x)
            assert torch.equal(y.isnan(), reach(drawn, at, y, form)), (form, str(drawn), at, dtype)
            assert not y.isinf().any()

    nan()


@pytest.mark.parametrize("operator", OPERATORS)
def test_infinities_reach_the_same_outputs_in_both_forms(operator):
    @given(places(operator), DTYPES, st.sampled_from((math.inf, -math.inf)))
    def infinite(place, dtype, value):
        (drawn, x), at = non_finite(place, dtype, value), place[1]
        found = {form: ~outputs(drawn, form, x).isfinite() for form in FORMS}
        for form, reached in found.items():
            assert not (reached & ~reach(drawn, at, reached, form)).any(), (form, str(drawn), at, dtype)
        both = reach(drawn, at, found["literal"])
        for form in ("literal", "fused"):
            assert torch.equal(found[form], found["matmul"] & both), (form, str(drawn), at, dtype)

    infinite()


@given(cases("WindowAttention", "LinearWindowAttention", "DepthwiseWindowAttention"), st.integers(1, 3))
def test_windows_that_move_as_a_whole_give_moved_outputs(drawn, by):
    """Without shift and padding, translating the map (cyclically) by whole windows translates the output."""
    window = drawn.options.get("window", 7)
    height, width = (size // window * window for size in drawn.shape[2:])
    x = drawn.values()[:, :, :height, :width]
    drawn = with_options(drawn, shift=0)
    for form in FORMS:
        y, z = outputs(drawn, form, x), outputs(drawn, form, x.roll((by * window, window), (2, 3)))
        torch.testing.assert_close(z, y.roll((by * window, window), (2, 3)), rtol=1e-9, atol=1e-9)
