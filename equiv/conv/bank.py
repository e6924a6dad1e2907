"""Kernel banks: where the kernels of a dynamic convolution come from.

A *bank* holds kernels that several locations share. It is *static* if the kernels are parameters (D-Conv) and
*dynamic* if they are computed from the image (attention: location j contributes the pair k_j, v_j). Kernels that are
generated for one image or one location and used nowhere else (D-DW-Conv, involution) form no bank.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class KernelBank:
    """Kernels to select from.

    Attributes:
        kernels: one tensor for each kernel of a pair. Dynamic banks: ``(B, P, h, d, M)``, kernel j of head h is column
            j, P counts sets of locations that see different kernels (1: all see the same bank). Static banks: kernel m
            is ``kernels[0][m]``.
        grid: ``(H, W)`` of the locations that contributed the kernels; ``(0, 0)`` for a static bank.
    """

    kernels: tuple[torch.Tensor, ...]
    grid: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """``"Static"`` if the kernels are parameters, else ``"Dynamic"``."""
        return "Static" if all(isinstance(kernel, nn.Parameter) for kernel in self.kernels) else "Dynamic"

    def take(self, sets: torch.Tensor) -> KernelBank:
        """Give each of P sets of locations its own kernels: ``sets (P, M)`` holds indices into the bank."""
        return KernelBank(tuple(take(kernel, sets) for kernel in self.kernels), self.grid)


@dataclasses.dataclass(frozen=True)
class Generated:
    """Kernels generated for one image, ``(B, G, K, K)``, or for one location, ``(B, G, K, K, H, W)``: no bank."""

    kernels: tuple[torch.Tensor, ...]
    kind = "N/A"


def split_heads(x: torch.Tensor, maps: int, heads: int) -> tuple[torch.Tensor, ...]:
    """Cut a feature map ``(B, maps*h*d, H, W)`` into ``maps`` tensors ``(B, 1, h, d, H*W)``."""
    batch, channels = x.shape[:2]
    return x.reshape(batch, maps, 1, heads, channels // (maps * heads), -1).unbind(1)


def take(x: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Columns of ``x (B, 1, h, d, N)`` by index sets ``(P, L)``: ``(B, P, h, d, L)``."""
    return x[:, 0, :, :, sets].movedim(3, 1)
