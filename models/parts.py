"""What the models are made of in either form: static layers, patch embedding, MLP, block.

A model is a skeleton (residual connections, normalisation, positions, pooling) around contractions, and the form says
how those are written: ``"matmul"`` as products of matrices, ``"conv"`` as convolutions. The skeleton is shared by the
forms, so that third-party models are what checks it; the contractions are not.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv import conv, matmul
from equiv.conv.apply import LOWERINGS
from equiv.conv.static import TokenConv1x1
from equiv.errors import check_choice, check_factory, check_grid, check_map, message
from equiv.layout import map_to_tokens
from equiv.matmul.modules import Linear
from equiv.matmul.static import Conv2d

FORMS = ("matmul", "conv")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a model writes its contractions.

    Attributes:
        name: ``"matmul"`` or ``"conv"``.
        lowering: of the operators in the conv form, ``None`` in the matmul form.
        factory: ``device`` and ``dtype`` of all parameters.
    """

    name: str
    lowering: str | None
    factory: dict[str, Any]

    @classmethod
    def of(cls, name: str, lowering: str | None, call: str, factory: dict[str, Any]) -> Form:
        """Check the two options of every model; ``lowering=None`` is ``"literal"`` in the conv form."""
        check_choice("form", name, FORMS, call)
        if name == "matmul" and lowering is not None:
            raise ValueError(message("lowering", lowering, "None with `form`='matmul', which has no lowerings", call))
        if name == "conv":
            lowering = check_choice("lowering", lowering or "literal", LOWERINGS, call)
        return cls(name, lowering, check_factory(factory["device"], factory["dtype"], call))

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
        """A linear layer on tokens ``(B, N, C)``."""
        return (Linear if self.name == "matmul" else TokenConv1x1)(inputs, outputs, bias=bias, **self.factory)

    def conv2d(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> nn.Module:
        """A static convolution on maps ``(B, C, H, W)``."""
        kind = Conv2d if self.name == "matmul" else nn.Conv2d
        return kind(inputs, outputs, size, stride=stride, padding=padding, bias=bias, **self.factory)

    def operator(self, name: str, *arguments: Any, **options: Any) -> nn.Module:
        """The operator ``name`` of ``equiv.matmul`` or ``equiv.conv``."""
        if self.name == "matmul":
            made: nn.Module = getattr(matmul, name)(*arguments, **options, **self.factory)
        else:
            made = getattr(conv, name)(*arguments, **options, lowering=self.lowering, **self.factory)
        return made

    def norm(self, dim: int, eps: float) -> nn.LayerNorm:
        """LayerNorm over the last axis."""
        return nn.LayerNorm(dim, eps=eps, **self.factory)

    def batch_norm(self, channels: int) -> nn.BatchNorm2d:
        """BatchNorm of maps, with PyTorch's eps and momentum."""
        return BatchNorm2d(channels, **self.factory)


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` on a contiguous map.

    On a map of one image that is a transposed view of tokens, strides (C, 1, W·C, C), PyTorch's CPU backward silently
    gives wrong gradients (found in 2.13 by comparing the forms of DW-Net).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous())


class PatchEmbedding(nn.Module):
    """P×P patches through one linear map: a convolution of stride P, then (Swin) LayerNorm over the channels.

    Images are zero-padded at the bottom and on the right to whole patches.

    Shapes: ``x (B, C, H, W)`` gives ``(B, D, ⌈H/P⌉, ⌈W/P⌉)``.
    """

    def __init__(self, form: Form, channels: int, dim: int, patch: int, eps: float | None = None) -> None:
        super().__init__()
        self.patch = patch
        self.proj = form.conv2d(channels, dim, patch, stride=patch)
        self.norm = None if eps is None else form.norm(dim, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = self.proj(F.pad(x, (0, -width % self.patch, 0, -height % self.patch)))
        return x if self.norm is None else on_channels(self.norm, x)


class Mlp(nn.Module):
    """``fc2(GELU(fc1(x)))`` on tokens ``(B, N, D)``, with the exact GELU ``x Φ(x)``."""

    def __init__(self, form: Form, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = form.linear(dim, hidden)
        self.fc2 = form.linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


def on_channels(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a module of the last axis to the channels of a map ``(B, C, H, W)``."""
    y: torch.Tensor = module(x.movedim(1, -1))
    return y.movedim(-1, 1)


def on_tokens(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a module of tokens to the locations of a map ``(B, C, H, W)``."""
    y: torch.Tensor = module(map_to_tokens(x))
    return y.transpose(1, 2).unflatten(2, x.shape[2:])


def on_vector(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a module of tokens to one vector an image, ``(B, D)``."""
    y: torch.Tensor = module(x[:, None])
    return y[:, 0]


def initialise(model: nn.Module) -> None:
    """Draw the weights of linear layers from a truncated normal distribution, σ = 0.02; their biases are zero.

    As timm's ViT and Swin are before training. Convolutions and banks keep PyTorch's initial values.
    """
    for module in model.modules():
        weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
        if isinstance(weight, nn.Parameter) and weight.dim() == 2:
            nn.init.trunc_normal_(weight, std=0.02)
            if isinstance(bias, nn.Parameter):
                nn.init.zeros_(bias)


def check_size(value: Any, call: str) -> tuple[int, int]:
    """``image_size`` as (height, width); an integer is the side of a square."""
    size = check_grid("image_size", (value, value) if isinstance(value, int) else value, call)
    if size is None:
        raise TypeError(message("image_size", value, "an integer or a pair (height, width)", call))
    return size


def check_image(x: torch.Tensor, channels: int, model: nn.Module, size: tuple[int, int] | None = None) -> None:
    """Raise unless ``x`` is ``(B, channels, H, W)`` with (H, W) = ``size``, if given."""
    check_map(x, channels, model)
    if size is not None and tuple(x.shape[2:]) != size:
        expected = f"of height and width {size}, the `image_size` of the model, whose positions are tied to it"
        raise ValueError(message("x", x, expected, type(model).__name__))
