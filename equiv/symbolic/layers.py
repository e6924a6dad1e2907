"""The layers as the bridge wants them: filled with integers, and with parts replaced or read off; batch 1."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from equiv import conv, matmul

Entry = Callable[..., Any]


class Integers:
    """Small random integers as float64 tensors."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=self.generator).double()

    def fill(self, module: nn.Module) -> nn.Module:
        """Replace the parameters."""
        for parameter in module.parameters():
            parameter.data = self(*parameter.shape)
        return module.eval()


def build(name: str, draw: Integers, *args: int, **options: Any) -> dict[str, Any]:
    """The layer in all its forms, with the same integers as parameters."""
    first = draw.fill(getattr(matmul, name)(*args, dtype=torch.float64, **options))
    layers = {"matmul": first}
    for lowering in ("literal", "fused"):
        layer = getattr(conv, name)(*args, lowering=lowering, dtype=torch.float64, **options)
        layer.load_state_dict(first.state_dict())
        layers[f"conv, {lowering}"] = layer.eval()
    return layers


def array(t: torch.Tensor) -> Entry:
    """The entries of a tensor, 0 outside of it (zero padding)."""

    def entry(*index: int) -> Fraction:
        inside = all(0 <= i < size for i, size in zip(index, t.shape, strict=True))
        return Fraction(t[index].item()) if inside else Fraction(0)

    return entry


def arrays(**tensors: torch.Tensor) -> dict[str, Entry]:
    """Several tensors by name."""
    return {name: array(t.detach()) for name, t in tensors.items()}


def substituted(
    layer: Any, x: torch.Tensor, generated: torch.Tensor, by: str = "qkv", after: str = "proj"
) -> torch.Tensor:
    """The layer with the output of its submodule ``by`` replaced, up to the input of ``after``; batch 1.

    ``generated`` is ``(locations, channels)``; so is the result, except for maps without ``after``.
    """

    def replace(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.dim() == 4 and not isinstance(module, nn.Linear):  # the convolution form: channels first
            return generated.T.reshape(output.shape)
        return generated.reshape(output.shape)

    seen: list[torch.Tensor] = []
    handles = [getattr(layer, by).register_forward_hook(replace)]
    if after:
        handles.append(getattr(layer, after).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0])))
    output = layer(x)
    for handle in handles:
        handle.remove()
    if not after:
        return output[0]
    t = seen[0]
    channels_first = t.dim() == 4 and not isinstance(getattr(layer, after), nn.Linear)
    return t.flatten(2)[0].T if channels_first else t.reshape(-1, t.shape[-1])


def relu(x: Sequence[Any], at: int) -> Any:
    """ReLU, as an activation of a vector."""
    return max(x[at], 0)


def saturated(x: Sequence[Any], at: int) -> Fraction:
    """Softmax in float64 of logits of which 1, 2, 4, … tie for the largest and the others are more than 745 less."""
    top = [v for v in x if v > max(x) - 746]
    if any(v != max(x) for v in top) or len(top) & (len(top) - 1):
        raise ValueError(f"float64 does not compute the softmax of {list(x)} exactly: draw from another seed")
    return Fraction(int(x[at] == max(x)), len(top))


def relative_bias(table: torch.Tensor, grid: tuple[int, int]) -> Entry:
    """Entry (head, location, kernel) of the relative position bias, by its definition."""
    rows, columns = grid

    def entry(head: int, n: int, m: int) -> Fraction:
        down, right = n // columns - m // columns, n % columns - m % columns
        return Fraction(table[(down + rows - 1) * (2 * columns - 1) + right + columns - 1, head].item())

    return entry


def express_convolution(layer: Any, grid: tuple[int, int], side: int, taps: torch.Tensor) -> None:
    """Make ``GlobalAttention`` a 3×3 convolution of patches (family 11).

    The relative bias is 0 at the head's offset and −∞ elsewhere, the value holds all pixels, W_O the head's taps.
    """
    pixels, span = side * side, 2 * grid[1] - 1
    value, out = layer.qkv.weight.data[18 * pixels :].zero_(), layer.proj.weight.data.zero_()
    layer.proj.bias.data.zero_()
    table = layer.relative_position_bias_table.data.fill_(-torch.inf)
    for g, (sy, sx) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
        table[(grid[0] - 1 - sy) * span + grid[1] - 1 - sx, g] = 0  # Δ = location − kernel = −offset
        for i in range(pixels):
            value[g * pixels + i, i] = 1
        for p, q, p2, q2 in itertools.product(range(side), repeat=4):
            ty, tx = side * sy + p2 - p + 1, side * sx + q2 - q + 1
            if 0 <= ty < 3 and 0 <= tx < 3:
                out[side * p + q, g * pixels + side * p2 + q2] = taps[ty, tx]
