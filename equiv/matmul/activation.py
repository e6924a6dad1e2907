"""The activations of Table 2: a scale for the logits and a function φ along the kernel axis."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = ("softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu")
LINEAR_ACTIVATIONS = ("scaling", "none")

_EPS = 1e-5


def logit_scale(activation: str, width: int) -> float:
    """The factor of ``q·k`` for heads of ``width`` channels.

    Example:
        >>> [logit_scale(name, 16) for name in ("softmax", "scaling", "scaling_relu", "none", "layernorm")]
        [0.25, 0.0625, 0.0625, 1.0, 1.0]
    """
    if activation == "softmax":
        return width**-0.5
    return 1 / width if activation.startswith("scaling") else 1.0


def activate(z: torch.Tensor, activation: str, selected: torch.Tensor | None = None) -> torch.Tensor:
    """Weights ``φ(z)`` along the last axis; pairs that ``selected`` excludes get weight 0 and influence no other.

    LayerNorm has no affine parameters: the paper does not say, and a weight per kernel would break the permutation
    equivariance of attention.

    Example:
        >>> activate(torch.tensor([3.0, -1.0, 5.0]), "scaling_relu", torch.tensor([True, True, False]))
        tensor([3., 0., 0.])
    """
    if activation == "softmax":
        return (z if selected is None else z.masked_fill(~selected, -math.inf)).softmax(-1)
    if activation.startswith("layernorm"):
        z = _layer_norm(z, selected)
    if activation.endswith("relu"):
        z = z.relu()
    return z if selected is None else z.masked_fill(~selected, 0)


def _layer_norm(z: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
    """``(z − mean) / √(var + ε)`` over the selected kernels of each query, with the biased variance."""
    if selected is None:
        return F.layer_norm(z, z.shape[-1:], eps=_EPS)
    # As torch's own LayerNorm, half types take their statistics in float32: squares overflow float16.
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    count = selected.sum(-1, keepdim=True)
    mean = wide.masked_fill(~selected, 0).sum(-1, keepdim=True) / count
    centred = (wide - mean).masked_fill(~selected, 0)
    variance = centred.square().sum(-1, keepdim=True) / count
    return (centred * (variance + _EPS).rsqrt()).to(z.dtype)
