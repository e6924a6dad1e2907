"""Every operator of the paper with its two forms, and the cases on which ``equiv verify`` compares them.

One literal table. A case is small, but between them the cases of a pair use every option, odd and unequal sizes, and
padding where there is any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from equiv import conv, matmul
from equiv.errors import message

LOWERINGS = ("literal", "fused")


@dataclasses.dataclass(frozen=True)
class Case:
    """Constructor arguments of an operator and the shape of its input.

    Attributes:
        shape: of the input, ``(B, N, D)`` or ``(B, C, H, W)``.
        args: positional arguments, ``(dim, heads)`` or ``(channels,)``.
        options: keyword arguments.
        training: whether the operator is in training mode (BatchNorm uses the batch's statistics).
    """

    shape: tuple[int, ...]
    args: tuple[int, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: bool = False

    def __str__(self) -> str:
        words = [*map(str, self.args), *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"({', '.join(words)}) on {'x'.join(map(str, self.shape))}{' in training mode' * self.training}"


@dataclasses.dataclass(frozen=True)
class Pair:
    """An operator in both forms.

    Attributes:
        name: the class name in both packages.
        cases: where they are compared.
        source: the publication that defines the operator.
    """

    name: str
    cases: tuple[Case, ...]
    source: str

    def build(self, form: str, case: Case) -> nn.Module:
        """The operator in ``form``: ``"matmul"``, or a lowering of the convolution form, ``"literal"`` or ``"fused"``.

        Example:
            >>> pair = find("Involution2d")
            >>> type(pair.build("literal", pair.cases[0]))
            <class 'equiv.conv.generated.Involution2d'>
        """
        if form == "matmul":
            operator = getattr(matmul, self.name)(*case.args, **case.options)
        else:
            operator = getattr(conv, self.name)(*case.args, lowering=form, **case.options)
        return operator.train(case.training)


def find(name: str) -> Pair:
    """The pair called ``name``.

    Raises:
        ValueError: there is none; the message lists all.

    Example:
        >>> find("LinearAttention").source
        'arXiv 2309.10713, Eq. 4 and Fig. 5'
    """
    for pair in PAIRS:
        if pair.name == name:
            return pair
    raise ValueError(message("pair", name, f"one of {', '.join(pair.name for pair in PAIRS)}", "catalogue.find"))


def example_input(case: Case, generator: torch.Generator) -> torch.Tensor:
    """A normal input for ``case``, float64."""
    return torch.randn(case.shape, generator=generator, dtype=torch.float64)


PAIRS = (
    Pair(
        "GlobalAttention",
        (
            Case((2, 13, 16), (16, 4), {"relative_position": (3, 4), "class_token": True}),
            Case((1, 12, 12), (12, 3), {"activation": "none", "qkv_bias": False}),
            Case((2, 7, 8), (8, 1), {"activation": "scaling", "relative_position": (7, 1)}),
            Case((3, 10, 8), (8, 2), {"activation": "scaling_relu", "relative_position": (3, 3), "class_token": True}),
            Case((2, 9, 8), (8, 4), {"activation": "layernorm", "relative_position": (3, 3)}),
            Case((2, 14, 8), (8, 2), {"activation": "layernorm_relu"}),
            Case((2, 1, 6), (6, 2)),
        ),
        "Dosovitskiy et al. 2021 (ViT); arXiv 2309.10713, Eqs. 1-3",
    ),
    Pair(
        "WindowAttention",
        (
            Case((2, 8, 6, 9), (8, 2), {"window": 3}),
            Case((2, 8, 7, 5), (8, 2), {"window": 3, "shift": 1}),
            Case((1, 8, 8, 12), (8, 4), {"window": 4, "shift": 2, "mask_value": -100.0}),
            Case((2, 6, 3, 8), (6, 3), {"window": 3, "shift": 1, "activation": "scaling", "qkv_bias": False}),
            Case((1, 8, 8, 8), (8, 1), {"window": 4, "shift": (1, 3), "activation": "scaling_relu"}),
            Case((2, 8, 9, 7), (8, 2), {"window": 5, "shift": 2, "activation": "layernorm"}),
            Case((1, 8, 8, 10), (8, 2), {"window": 4, "shift": 2, "activation": "layernorm_relu"}),
            Case((2, 4, 6, 6), (4, 2), {"window": 3, "shift": 1, "activation": "none", "relative_position": False}),
        ),
        "Liu et al. 2021 (Swin); arXiv 2309.10713, Fig. 3",
    ),
    Pair(
        "LinformerAttention",
        (
            Case((2, 11, 12), (12, 3), {"tokens": 11, "rank": 4, "sharing": "none"}),
            Case((2, 9, 8), (8, 2), {"tokens": 9, "rank": 5}),
            Case((1, 12, 8), (8, 1), {"tokens": 12, "rank": 3, "sharing": "key_value", "activation": "scaling_relu"}),
            Case((3, 7, 8), (8, 4), {"tokens": 7, "rank": 7, "sharing": "layerwise", "activation": "layernorm"}),
        ),
        "Wang et al. 2020 (Linformer)",
    ),
    Pair(
        "LinearAttention",
        (
            Case((2, 13, 16), (16, 4), {"relative_position": (3, 4), "class_token": True}),
            Case((1, 9, 8), (8, 2), {"activation": "none", "qkv_bias": False}),
            Case((3, 6, 6), (6, 1), {"relative_position": (2, 3)}),
        ),
        "arXiv 2309.10713, Eq. 4 and Fig. 5",
    ),
    Pair(
        "LinearWindowAttention",
        (
            Case((2, 8, 6, 9), (8, 2), {"window": 3}),
            Case((2, 8, 7, 5), (8, 4), {"window": 3, "shift": 1}),
            Case((1, 6, 8, 6), (6, 1), {"window": 4, "shift": 2, "activation": "none", "relative_position": False}),
        ),
        "arXiv 2309.10713, Eq. 4 and Table 2",
    ),
    Pair(
        "DepthwiseAttention",
        (
            Case((2, 13, 8), (8, 2), {"relative_position": (3, 4), "class_token": True}),
            Case((2, 6, 8), (8, 4), {"relative_position": (2, 3), "bias_table": "channel", "values": "q"}),
            Case((1, 9, 6), (6, 3), {"relative_position": (3, 3), "values": "x", "qkv_bias": False}),
            Case((3, 5, 8), (8, 1)),
        ),
        "arXiv 2309.10713, Eq. 5",
    ),
    Pair(
        "DepthwiseWindowAttention",
        (
            Case((2, 8, 6, 9), (8, 2), {"window": 3}),
            Case((2, 8, 7, 5), (8, 2), {"window": 3, "shift": 1, "bias_table": "channel"}),
            Case((1, 6, 8, 6), (6, 3), {"window": 4, "shift": 2, "values": "q"}),
            Case((2, 6, 5, 5), (6, 1), {"window": 3, "shift": 1, "values": "x", "qkv_bias": False}),
        ),
        "arXiv 2309.10713, Eq. 5 and Table 3",
    ),
    Pair(
        "DynamicConv2d",
        (
            Case((3, 8, 7, 6), (8,), {"temperature": 2.0}),
            Case((2, 6, 9, 8), (6,), {"out_channels": 4, "groups": 2, "stride": 2, "dilation": 2, "temperature": 1.0}),
            Case((2, 4, 5, 5), (4,), {"kernel_size": 2, "padding": 1, "kernels": 3, "bias": False}),
            Case((1, 4, 6, 7), (4,), {"kernel_size": 1, "out_channels": 5}),
        ),
        "Chen et al. 2020 (Dynamic Convolution)",
    ),
    Pair(
        "DynamicDepthwiseConv2d",
        (
            Case((2, 8, 7, 6), (8,), {"kernel_size": 5}),
            Case((3, 8, 6, 5), (8,), {"kernel_size": 3, "bias": False}, training=True),
            Case((2, 8, 5, 8), (8,), {"kernel_size": 3, "variant": "inhomogeneous", "group_channels": 2}),
            Case((2, 6, 6, 6), (6,), {"kernel_size": 5, "variant": "inhomogeneous"}, training=True),
        ),
        "Han et al. 2021 (Demystifying Local Vision Transformer)",
    ),
    Pair(
        "Involution2d",
        (
            Case((2, 8, 6, 9), (8,), {"kernel_size": 3, "group_channels": 4}),
            Case((2, 8, 6, 4), (8,), {"kernel_size": 5, "group_channels": 2, "stride": 2}),
            Case((1, 6, 5, 5), (6,), {"kernel_size": 3, "group_channels": 3}, training=True),
        ),
        "Li et al. 2021 (Involution)",
    ),
)
