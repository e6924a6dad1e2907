"""Application of 1×1 kernels to the locations that selected them: paired, merged, depth-wise.

Every application has two lowerings. ``literal`` calls ``F.conv2d`` with the generated kernels, one group for each
image, set of locations and head; it is the verified reference. ``fused`` computes the same contraction the fastest way
that PyTorch offers.

Shapes: B images, P sets of locations, h heads, d channels of a head, M kernels, L locations of a set.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F

from equiv.conv.bank import Generated, KernelBank
from equiv.conv.selection import Selected

Lowering = Literal["fused", "literal"]
LOWERINGS = ("fused", "literal")
ACTIVATIONS = ("softmax", "none", "scaling", "scaling_relu", "layernorm", "layernorm_relu")
LAYER_NORM_EPS = 1e-5


def logit_scale(activation: str, dim: int) -> float:
    """What the query-key products are multiplied with: ``d^-½``, ``1/d`` or 1."""
    return {"softmax": dim**-0.5, "scaling": 1 / dim, "scaling_relu": 1 / dim}.get(activation, 1.0)


def activate(z: torch.Tensor, activation: str, dim: int) -> torch.Tensor:
    """φ along the kernel axis ``dim``: softmax, identity, ReLU, layer normalisation, or ReLU after it (Table 2)."""
    if activation == "softmax":
        return z.softmax(dim)
    if activation.startswith("layernorm"):
        z = F.layer_norm(z.transpose(dim, -1), [z.shape[dim]], eps=LAYER_NORM_EPS).transpose(dim, -1)
    return z.relu() if activation.endswith("relu") else z


def second_kernels(maps: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """The 1×1 convolution M → d by rows ``v_j``: ``y_i = Σ_j maps[j, i] v_j``, the second of a pair.

    Args:
        maps: ``(B, P, h, M, L)``: the kernel index is the channel.
        kernels: ``(B, P, h, d, M)``.
    """
    *lead, dim, count = kernels.shape
    groups, length = kernels[..., 0, 0].numel(), maps.shape[-1]
    y = F.conv2d(
        maps.expand(*lead, count, length).reshape(1, groups * count, length, 1),
        kernels.reshape(groups * dim, count, 1, 1),
        groups=groups,
    )
    return y.reshape(*lead, dim, length)


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two 1×1 convolutions with an activation between them: ``d → M``, φ along the kernel axis, ``M → d``.

    ``y_i = Σ_j φ_j(s q_i·k_j + B_ij) v_j``: kernel j of the first convolution is column ``k_j``, of the second row
    ``v_j``; s is :func:`logit_scale`, B the relative position bias and the penalty of softly selected kernels.
    """

    activation: str
    lowering: Lowering

    def __call__(self, x: torch.Tensor, chosen: Selected) -> torch.Tensor:
        first, second = chosen.bank.kernels
        scale = logit_scale(self.activation, x.shape[3])
        bias = chosen.bias if chosen.penalty is None else chosen.penalty + (0 if chosen.bias is None else chosen.bias)
        if self.lowering == "literal":
            return self._literal(x * scale, first, second, bias)
        q, k, v = (tensor.transpose(-1, -2) for tensor in (x, first, second))
        if self.activation == "softmax":
            y = _sdpa(q, k, v, bias, scale)
        else:
            z = (q * scale) @ first
            y = activate(z if bias is None else z + bias, self.activation, dim=-1) @ v
        return y.transpose(-1, -2)

    def _literal(
        self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        *lead, dim, length = x.shape
        groups, count = x[..., 0, 0].numel(), first.shape[-1]
        z = F.conv2d(
            x.reshape(1, groups * dim, length, 1),
            first.transpose(-1, -2).reshape(groups * count, dim, 1, 1),
            groups=groups,
        ).reshape(*lead, count, length)
        if bias is not None:
            z = z + bias.transpose(-1, -2)
        return second_kernels(activate(z, self.activation, dim=3), second)

    def kernel_type(self, kernels: KernelBank | Generated) -> tuple[str, tuple[int, ...]]:
        dim, count = kernels.kernels[0].shape[-2:]
        return "paired", (dim, count, kernels.kernels[1].shape[-2])

    def kernel_size(self, kernels: KernelBank | Generated) -> tuple[int, ...]:
        return 1, 1


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    """PyTorch's fused attention; its kernels want four axes, so images and sets of locations become one."""
    lead = q.shape[:2]
    if bias is not None:  # one set of biases serves all images, or all sets
        bias = bias.expand(*lead, *bias.shape[1:]).flatten(0, 1) if bias.shape[0] > 1 else bias
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return y.unflatten(0, lead)


@dataclasses.dataclass(frozen=True)
class Merged:
    """One 1×1 convolution with the merged kernel, and one for the bias (Fig. 5, Eq. 4).

    ``y_i = s q_i K + Σ_j B_ij v_j`` with ``K = Σ_j k_jᵀ v_j``. Merging is itself a convolution: K is the result of
    the second kernels (M → d) on the map whose d locations are the rows of the first.
    """

    activation: str
    lowering: Lowering

    def __call__(self, x: torch.Tensor, chosen: Selected) -> torch.Tensor:
        first, second = chosen.bank.kernels
        x = x * logit_scale(self.activation, x.shape[3])
        y = apply_merged(x, merge_pair(first, second, self.lowering), self.lowering)
        if chosen.bias is not None:
            y = y + _weighted_kernels(chosen.bias, second, self.lowering)
        return y

    def kernel_type(self, kernels: KernelBank | Generated) -> tuple[str, tuple[int, ...]]:
        return "merged", (kernels.kernels[0].shape[-2], kernels.kernels[1].shape[-2])

    def kernel_size(self, kernels: KernelBank | Generated) -> tuple[int, ...]:
        return 1, 1


def merge_pair(first: torch.Tensor, second: torch.Tensor, lowering: str = "fused") -> torch.Tensor:
    """The merged kernel of a linear pair, ``K[o, c] = Σ_j v_j[o] k_j[c]``.

    Args:
        first: kernels k, ``(…, d, M)``.
        second: kernels v, ``(…, d', M)``.
        lowering: ``"literal"`` wants the five axes of a bank.

    Returns:
        ``(…, d', d)``.
    """
    if lowering == "fused":
        return second @ first.transpose(-1, -2)
    return second_kernels(first.transpose(-1, -2), second)


def apply_merged(x: torch.Tensor, kernel: torch.Tensor, lowering: str = "fused") -> torch.Tensor:
    """The 1×1 convolution of ``x (B, P, h, d, L)`` with ``kernel (B, P, h, d', d)``."""
    return kernel @ x if lowering == "fused" else second_kernels(x, kernel)


def _weighted_kernels(bias: torch.Tensor, kernels: torch.Tensor, lowering: str) -> torch.Tensor:
    """``Σ_j B_ij v_j``: the second kernels on the constant map whose channel j is B_ij."""
    if lowering == "fused":
        return kernels @ bias.transpose(-1, -2)
    return second_kernels(bias.transpose(-1, -2).to(kernels.dtype), kernels)


@dataclasses.dataclass(frozen=True)
class DepthwiseMean:
    """One depth-wise 1×1 convolution, the average of the selected kernels, and the bias on z (Eq. 5).

    ``y_i = q_i ⊙ mean_j k_j + Σ_j B_ij z_j``. The bank holds the kernels k and z.
    """

    lowering: Lowering

    def __call__(self, x: torch.Tensor, chosen: Selected) -> torch.Tensor:
        first, second = chosen.bank.kernels
        mean = first.mean(-1, keepdim=True)
        if self.lowering == "fused":
            y = x * mean
        else:
            channels = mean.numel()
            weight = mean.reshape(channels, 1, 1, 1)
            y = F.conv2d(x.reshape(1, channels, -1, 1), weight, groups=channels).reshape(x.shape)
        if chosen.bias is None:
            return y
        # A table per channel is a table per head with heads of one channel.
        heads = chosen.bias.shape[1]
        split = second.flatten(2, 3).unflatten(2, (heads, -1))
        return y + _weighted_kernels(chosen.bias, split, self.lowering).reshape(y.shape)

    def kernel_type(self, kernels: KernelBank | Generated) -> tuple[str, tuple[int, ...]]:
        return "depth-wise", ()

    def kernel_size(self, kernels: KernelBank | Generated) -> tuple[int, ...]:
        return 1, 1
