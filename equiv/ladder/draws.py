"""Inputs and weights to compare on: value patterns, memory layouts, and weights that hide nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from equiv.errors import message

Pattern = Literal["normal", "offset", "sparse", "ties", "large", "cancel", "onehot"]

#: Each pattern makes float64 values of a shape.
PATTERNS: dict[str, Callable[[tuple[int, ...], torch.Generator], torch.Tensor]] = {
    "normal": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64),
    # a common mean, as after a ReLU: differences of close numbers
    "offset": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64) + 1,
    # most entries zero
    "sparse": lambda shape, g: _normal(shape, g) * (_uniform(shape, g) < 0.2),
    # few different values, so that maxima and sums tie
    "ties": lambda shape, g: torch.randint(-1, 2, shape, generator=g).double(),
    "large": lambda shape, g: 16 * _normal(shape, g),
    # pairs of neighbours that almost cancel
    "cancel": lambda shape, g: _cancel(_normal(shape, g)),
    # a single one
    "onehot": lambda shape, g: _onehot(shape, g),
}

#: Each layout makes, from a contiguous leaf, a view (or copy) of the same shape with other strides.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    # the last two axes stored the other way round
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    # every second element of a larger tensor
    "strided": lambda x: torch.stack((x, torch.full_like(x, math.nan)), dim=-1)[..., 0],
    # all batch elements are one, with stride 0
    "expanded": lambda x: x[:1].expand_as(x),
}


def draw_input(shape: tuple[int, ...], pattern: str, generator: torch.Generator) -> torch.Tensor:
    """Float64 values of the given shape and pattern on the CPU.

    Raises:
        ValueError: unknown pattern.

    Example:
        >>> draw_input((2, 3), "onehot", torch.Generator().manual_seed(0)).sum()
        tensor(1., dtype=torch.float64)
    """
    if pattern not in PATTERNS:
        raise ValueError(message("pattern", pattern, f"one of {', '.join(PATTERNS)}", "draw_input"))
    return PATTERNS[pattern](shape, generator)


def derive(seed: int, *words: str) -> int:
    """A seed of 31 bits that depends on ``seed`` and all ``words``, the same in every process.

    Example:
        >>> derive(0, "float32") == derive(0, "float32"), derive(0, "float32") == derive(0, "float16")
        (True, False)
    """
    digest = hashlib.sha256("\n".join((str(seed), *words)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@torch.no_grad()
def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Replace all parameters, and the running statistics of BatchNorm, by random values, in place.

    Other buffers are constants (masks, frequencies, indices) and stay.

    Default initialisations hide bugs: biases and bias tables are zero, scales one, attention nearly uniform. Matrices
    are drawn with standard deviation 1/√fan-in, so that attention on normal inputs is far from uniform and does not
    saturate; vectors and tables with standard deviation 0.5; scales and BatchNorm variances around 1.

    Example:
        >>> norm = nn.LayerNorm(4)
        >>> draw_weights(norm, torch.Generator().manual_seed(0))
        >>> bool((norm.bias != 0).all())
        True
    """
    for owner in module.modules():
        statistics = owner.named_buffers(recurse=False) if isinstance(owner, _NormBase) else ()
        for name, tensor in [*owner.named_parameters(recurse=False), *statistics]:
            if tensor.is_floating_point():
                tensor.copy_(_draw_weight(owner, name, tensor, generator))


def _draw_weight(owner: nn.Module, name: str, tensor: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if name == "running_var":
        return 0.5 + 1.5 * _uniform(shape, g)
    if len(shape) <= 1:
        is_scale = name == "weight" and "Norm" in type(owner).__name__
        return 1.0 * is_scale + 0.5 * _normal(shape, g)
    if "table" in name or "embed" in name or "token" in name:
        return 0.5 * _normal(shape, g)
    # (out, in), (out, in, K, K); the banks of D-Conv have one axis more in front, mixing tables by head too
    fan_in = math.prod(shape[2:] if len(shape) in (3, 5) else shape[1:])
    return fan_in**-0.5 * _normal(shape, g)


def _normal(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def _uniform(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64)


def _cancel(x: torch.Tensor) -> torch.Tensor:
    neighbour = x.roll(1, -1)
    odd = torch.arange(x.shape[-1]) % 2 == 1
    return torch.where(odd, -neighbour * (1 + 2.0**-6), x)


def _onehot(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    x = torch.zeros(math.prod(shape), dtype=torch.float64)
    if len(x):
        x[int(torch.randint(len(x), (1,), generator=g))] = 1
    return x.reshape(shape)
