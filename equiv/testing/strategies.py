"""Hypothesis strategies: an operator with options, a shape, a memory layout and values, over their full range.

Sizes are small, so that a check takes some ten milliseconds, but include every special one: one token, one head, one
channel per head, one location, odd and unequal sides, maps that windows do not divide, ranks above the token count.
Values come from a drawn seed and pattern rather than element by element: a shrunken case then fits into one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf, prod
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st

from equiv import matmul
from equiv.catalogue import PAIRS
from equiv.ladder.draws import LAYOUTS, PATTERNS
from equiv.ladder.floating import DTYPES
from equiv.testing.reproduce import Drawn, command

__all__ = ["OPERATORS", "Drawn", "cases", "command", "dtypes"]

#: Names of the operators, one for each pair of the catalogue.
OPERATORS = tuple(pair.name for pair in PAIRS)

ACTIVATIONS = ("softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu")
LINEAR_ACTIVATIONS = ("scaling", "none")

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """The four floating dtypes.

    Example:
        >>> from hypothesis import find
        >>> find(dtypes(), lambda dtype: True)
        torch.float64
    """
    return st.sampled_from(list(DTYPES.values()))


@st.composite
def cases(draw: Draw[Any], *operators: str) -> Drawn:
    """Cases of the given operators, by default of all.

    Not drawn: ``device`` and ``dtype``; and Linformer's ``mixing``, which is a tensor, and replaces one of the same
    meaning.

    Example:
        >>> from hypothesis import find
        >>> print(find(cases(), lambda case: case.operator == "Involution2d" and case.options.get("stride") == 2))
        Involution2d(1, kernel_size=1, stride=2, group_channels=1, reduction=1) on 1x1x2x2, contiguous, normal, seed 0
    """
    operator = draw(st.sampled_from(operators or OPERATORS))
    parameters = inspect.signature(getattr(matmul, operator)).parameters
    # An operator has an option of this name or it does not; what a value means is the same in all.
    has = parameters.keys().__contains__
    batch = draw(st.integers(1, 3))
    layout = draw(st.sampled_from(tuple(LAYOUTS)))
    options: dict[str, Any] = {}
    training = False
    if has("heads"):
        heads = draw(st.integers(1, 4))
        args: tuple[int, ...] = (heads * draw(st.integers(1, 5)), heads)
        options["qkv_bias"] = draw(st.booleans())
        if has("activation"):
            linear = operator.startswith("Linear")
            options["activation"] = draw(st.sampled_from(LINEAR_ACTIVATIONS if linear else ACTIVATIONS))
        if has("values"):
            options["bias_table"] = draw(st.sampled_from(("head", "channel")))
            options["values"] = draw(st.sampled_from(("k", "q", "x")))
        if has("window"):
            more, size = _window(draw, has("mask_value") and options["activation"] == "softmax")
        elif has("rank"):
            more, size = _mixing(draw)
        else:
            more, size = _tokens(draw)
        shape = (batch, args[0], *size) if has("window") else (batch, *size, args[0])
    else:
        channels, more, size = (_mixture if has("temperature") else _generated)(draw, operator)
        args, shape = (channels,), (batch, channels, *size)
        options["reduction"] = draw(st.integers(1, channels + 1))
        different = 1 if layout == "expanded" else batch
        training = has("group_channels") and _statistics(different, size, **more) > 2 and draw(st.booleans())
    options |= more
    if has("bias"):
        options["bias"] = draw(st.booleans())
    return Drawn(
        shape,
        args,
        {name: options[name] for name in parameters if name in options and options[name] != parameters[name].default},
        training,
        operator=operator,
        layout=layout,
        pattern=draw(st.sampled_from(tuple(PATTERNS))),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


def _statistics(
    images: int, size: tuple[int, int], variant: str = "inhomogeneous", stride: int = 1, **options: Any
) -> int:
    """How many different values BatchNorm sees. Two become ±1 whatever they were: gradients are rounding errors."""
    return images if variant == "homogeneous" else images * prod(size) // stride**2


def _tokens(draw: Draw[Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    grid = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    class_token = draw(st.booleans())
    tokens = draw(st.integers(1, 13)) if grid is None else prod(grid) + class_token
    return {"relative_position": grid, "class_token": class_token}, (tokens,)


def _mixing(draw: Draw[Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    tokens = draw(st.integers(1, 9))
    sharing = draw(st.sampled_from(("headwise", "none", "key_value", "layerwise")))
    return {"tokens": tokens, "rank": draw(st.integers(1, tokens + 2)), "sharing": sharing}, (tokens,)


def _window(draw: Draw[Any], masked: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
    window = draw(st.integers(1, 4))
    one = st.integers(0, window - 1)
    options = {"window": window, "shift": draw(one | st.tuples(one, one)), "relative_position": draw(st.booleans())}
    if masked:
        options["mask_value"] = draw(st.sampled_from((-inf, -100.0, -1.5)))
    return options, (draw(st.integers(window, 9)), draw(st.integers(window, 9)))


def _mixture(draw: Draw[Any], operator: str) -> tuple[int, dict[str, Any], tuple[int, int]]:
    groups = draw(st.integers(1, 3))
    channels, out_channels = (groups * draw(st.integers(1, 4)) for _ in range(2))
    size, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    padding = draw((st.none() | st.integers(0, 3)) if size % 2 else st.integers(0, 3))
    options = {
        "out_channels": draw(st.sampled_from((None, out_channels))),
        "kernel_size": size,
        "stride": draw(st.integers(1, 3)),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "kernels": draw(st.integers(1, 4)),
        "temperature": draw(st.sampled_from((30.0, 7, 1.0, 0.2))),
    }
    extent = dilation * (size - 1) + 1
    least = max(1, extent - (extent - 1 if padding is None else 2 * padding))
    return channels, options, (draw(st.integers(least, least + 6)), draw(st.integers(least, least + 6)))


def _generated(draw: Draw[Any], operator: str) -> tuple[int, dict[str, Any], tuple[int, int]]:
    width, groups, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 1
    options: dict[str, Any] = {"kernel_size": draw(st.sampled_from((1, 3, 5, 7)))}
    if operator == "Involution2d":
        stride = draw(st.integers(1, 3))
        options |= {"stride": stride, "group_channels": width}
    else:
        options["variant"] = draw(st.sampled_from(("homogeneous", "inhomogeneous")))
        if options["variant"] == "inhomogeneous":
            options["group_channels"] = draw(st.sampled_from((None, width)))
    largest = 7 // stride
    return width * groups, options, (stride * draw(st.integers(1, largest)), stride * draw(st.integers(1, largest)))
