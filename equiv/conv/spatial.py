"""Application of K×K kernels to a feature map: dense or depth-wise for an image, and generated for each location.

Shapes: B images, C channels, G groups of channels, K×K kernel, (H, W) input and (H', W') output size.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from equiv.conv.apply import Lowering
from equiv.conv.bank import Generated, KernelBank
from equiv.conv.selection import Selected


@dataclasses.dataclass(frozen=True)
class ImageKernel:
    """One K×K kernel (and bias) per image: a grouped convolution in which every image is a group.

    Kernel ``(B, C', C/groups, K, K)``, bias ``(B, C')``; ``lowering`` changes nothing here, it is one ``F.conv2d``.
    """

    groups: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __call__(self, x: torch.Tensor, chosen: Selected) -> torch.Tensor:
        weight, *bias = chosen.bank.kernels
        batch, out_channels = weight.shape[:2]
        y = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            weight.flatten(0, 1),
            bias[0].flatten() if bias else None,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=batch * self.groups,
        )
        return y.reshape(batch, out_channels, *y.shape[2:])

    def kernel_type(self, kernels: KernelBank | Generated) -> tuple[str, tuple[int, ...]]:
        out_channels, in_channels = kernels.kernels[0].shape[1:3]
        if self.groups == out_channels:
            return "depth-wise", ()
        return "dense", (in_channels * self.groups, out_channels)

    def kernel_size(self, kernels: KernelBank | Generated) -> tuple[int, ...]:
        return tuple(kernels.kernels[0].shape[-2:])


@dataclasses.dataclass(frozen=True)
class LocationKernels:
    """One K×K kernel per location and group of channels, used nowhere else.

    ``y[c, i] = Σ_u W[g(c), u, i] x[c, s·i + u − r]`` (+ bias[c]), ``r = (K−1)/2``, zero padding, stride s. Kernels
    ``(B, G, K, K, H', W')``. ``literal``: the K×K patch of every location is a convolution of its own, picked by
    index sets, with the channels of a group as the batch.
    """

    channels: int
    lowering: Lowering
    stride: int = 1

    def __call__(self, x: torch.Tensor, chosen: Selected) -> torch.Tensor:
        weight, *bias = chosen.bank.kernels
        y = self._fused(x, weight) if self.lowering == "fused" else self._literal(x, weight)
        return y + bias[0][:, None, None] if bias else y

    def _literal(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        batch, groups, size, _, height, width = weight.shape
        radius = (size - 1) // 2
        padded = F.pad(x, (radius,) * 4)
        rows, cols = (
            torch.arange(count, device=x.device)[:, None] * self.stride + torch.arange(size, device=x.device)
            for count in (height, width)
        )
        index = rows[:, None, :, None] * padded.shape[3] + cols[None, :, None, :]  # (H', W', K, K)
        patches = padded.flatten(2)[:, :, index.reshape(-1, size, size)].unflatten(1, (groups, -1))
        patches = patches.permute(2, 0, 3, 1, 4, 5).flatten(1, 3)  # (C/G, B·H'W'·G, K, K)
        kernels = weight.flatten(4).permute(0, 4, 1, 2, 3).reshape(-1, 1, size, size)
        y = F.conv2d(patches, kernels, groups=len(kernels))
        y = y.reshape(-1, batch, height * width, groups).permute(1, 3, 0, 2)
        return y.reshape(batch, -1, height, width)

    def _fused(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        batch, groups, size, _, height, width = weight.shape
        patches = F.unfold(x, size, padding=(size - 1) // 2, stride=self.stride)
        patches = patches.reshape(batch, groups, -1, size * size, height * width)
        y = (patches * weight.reshape(batch, groups, 1, size * size, height * width)).sum(3)
        return y.reshape(batch, -1, height, width)

    def kernel_type(self, kernels: KernelBank | Generated) -> tuple[str, tuple[int, ...]]:
        return "depth-wise" if kernels.kernels[0].shape[1] == self.channels else "grouped", ()

    def kernel_size(self, kernels: KernelBank | Generated) -> tuple[int, ...]:
        return tuple(kernels.kernels[0].shape[2:4])
