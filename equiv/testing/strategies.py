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

__all__ = ["HALF", "OPERATORS", "PRECISE", "Drawn", "cases", "command", "dtypes", "runs"]

#: Names of the operators, one for each pair of the catalogue.
OPERATORS = tuple(pair.name for pair in PAIRS)

PRECISE = (torch.float64, torch.float32)
HALF = (torch.bfloat16, torch.float16)

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
def runs(draw: Draw[Any], *operators: str) -> tuple[Drawn, torch.dtype]:
    """Cases as of :func:`cases`, each with a dtype in which a comparison can tell something.

    Left out:

    1. Half precision where an operator normalises what it reads: values that are nearly equal leave rounding errors,
       divided by √eps (the float16 ``layer_norm`` of a constant 3000 is -0.025, not 0). And float32 where they may be
       just two: LayerNorm makes them ±1 whatever they were, so that all gradients before it are rounding errors.
    2. Half precision where a strided convolution has taps that meet nothing but padding: there oneDNN 3.12 (PyTorch
       2.13, a CPU with AMX) returns weight gradients that are uninitialised memory, or crashes the process, ``conv2d``
       of a ``(1, 1, 3, 1)`` float16 map with a 1×1 kernel, stride 2, padding 1 and dilation 2, for example.

    Example:
        >>> from hypothesis import find
        >>> find(runs(), lambda run: run[0].operator == "LinearAttention" and run[1] is torch.float16)[0].shape
        (1, 1, 1)
    """
    drawn = draw(cases(*operators))
    layer_norm = drawn.options.get("activation", "").startswith("layernorm")
    if layer_norm and _fewest_kernels(drawn) < 3:
        return drawn, torch.float64
    return drawn, draw(st.sampled_from(PRECISE) if layer_norm or drawn.training or _has_idle_taps(drawn) else dtypes())


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
            # softmax more often than the others: it has more options
            some = st.sampled_from(LINEAR_ACTIVATIONS) if linear else st.just("softmax") | st.sampled_from(ACTIVATIONS)
            options["activation"] = draw(some)
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


def _fewest_kernels(drawn: Drawn) -> int:
    """The least number of kernels that LayerNorm runs over; parts of shifted windows can have just one."""
    if "window" in drawn.options:
        return 1 if "shift" in drawn.options else int(drawn.options["window"] ** 2)
    return int(drawn.options.get("rank", drawn.shape[1]))


def _has_idle_taps(drawn: Drawn) -> bool:
    """Is there a tap of a strided K×K kernel that meets nothing but padding?"""
    if drawn.operator != "DynamicConv2d":
        return False
    options = {"kernel_size": 3, "stride": 1, "dilation": 1} | dict(drawn.options)
    size, stride, dilation = options["kernel_size"], options["stride"], options["dilation"]
    padding = options.get("padding", dilation * (size - 1) // 2)

    def idle(length: int) -> bool:
        count = (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1
        reads = [{stride * i + dilation * tap - padding for i in range(count)} for tap in range(size)]
        return any(positions.isdisjoint(range(length)) for positions in reads)

    return stride > 1 and any(map(idle, drawn.shape[2:]))


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
