"""D-DW-Conv and involution: K×K kernels generated for one image or one location, without a bank."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.conv.apply import LOWERINGS, Lowering
from equiv.conv.bank import Generated
from equiv.conv.dynamic import DynamicConvolution
from equiv.conv.selection import SelectNone
from equiv.conv.spatial import ImageKernel, LocationKernels
from equiv.conv.static import Conv1x1
from equiv.errors import (
    check_batch_statistics,
    check_bool,
    check_choice,
    check_divides,
    check_factory,
    check_int,
    check_map,
    check_odd,
    message,
)

VARIANTS = ("homogeneous", "inhomogeneous")


class _Generator(nn.Module):
    """The kernel generator of both operators: 1×1 conv (C → C/reduction), BatchNorm, ReLU, 1×1 conv."""

    def __init__(self, channels: int, reduction: int, outputs: int, factory: dict[str, Any]) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.conv1 = Conv1x1(channels, hidden, bias=False, **factory)
        self.bn = nn.BatchNorm2d(hidden, **factory)
        self.conv2 = Conv1x1(hidden, outputs, **factory)

    def generate(self, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Kernels, ``(B, outputs, H', W')``, from a map ``(B, C, H', W')`` made of the operator's input ``x``."""
        check_batch_statistics(x, features[:, 0].numel(), self.bn, type(self).__name__)
        return self.conv2(self.bn(self.conv1(features)).relu())


class DynamicDepthwiseConv2d(_Generator):
    """Dynamic depth-wise convolution (D-DW-Conv): kernels generated from the image, for all of it or each location.

    ``"homogeneous"``: ``y[c, i] = Σ_u W[c, u] x[c, i + u − r]`` with one kernel set W(GAP x) for the image.
    ``"inhomogeneous"``: ``y[c, i] = Σ_u W[g(c), u, i] x[c, i + u − r]`` with kernels W(x_i) at each location i, shared
    by the channels of a group g. Both add ``bias[c]``; ``W(·) = conv2(ReLU(BN(conv1(·))))``, r = (K−1)/2, zero padding.

    Args:
        channels: C.
        kernel_size: K, odd.
        variant: ``"homogeneous"`` or ``"inhomogeneous"``.
        group_channels: channels that share a kernel, a divisor of C, inhomogeneous only; ``None``: 1.
        reduction: ``conv1`` has max(C // reduction, 1) outputs.
        bias: whether a bias is added to each channel.
        lowering: see :class:`~equiv.conv.GlobalAttention`; the homogeneous variant is one ``F.conv2d`` in both.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, C, H, W)`` gives the same.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range, or BatchNorm in training mode has one value only.

    Source: Han et al. 2021, "Demystifying Local Vision Transformer" (Atten4Vis/DemystifyLocalViT), whose parameter
    names we keep. Differences:
        1. ``conv1`` has no bias in the inhomogeneous variant either; BatchNorm would remove it.
        2. The inhomogeneous variant may have a bias.

    Example:
        >>> DynamicDepthwiseConv2d(8, kernel_size=3).eval()(torch.zeros(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        variant: str = "homogeneous",
        group_channels: int | None = None,
        reduction: int = 4,
        bias: bool = True,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        check_int("channels", channels, call)
        check_odd("kernel_size", kernel_size, call)
        check_choice("variant", variant, VARIANTS, call)
        check_int("reduction", reduction, call)
        check_bool("bias", bias, call)
        check_choice("lowering", lowering, LOWERINGS, call)
        homogeneous = variant == "homogeneous"
        if homogeneous and group_channels is not None:
            raise ValueError(message("group_channels", group_channels, "None with `variant`='homogeneous'", call))
        width = 1 if group_channels is None else group_channels
        check_divides("group_channels", width, "channels", channels, call)
        factory = check_factory(device, dtype, call)
        super().__init__(channels, reduction, channels // width * kernel_size**2, factory)
        self.bias = nn.Parameter(torch.zeros(channels, **factory)) if bias else None
        self.channels, self.kernel_size, self.variant = channels, kernel_size, variant
        self.group_channels, self.reduction, self.lowering = group_channels, reduction, lowering
        radius = (kernel_size - 1) // 2
        application = ImageKernel(channels, padding=radius) if homogeneous else LocationKernels(channels, lowering)
        self.dynamic = DynamicConvolution(SelectNone(), application)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve ``x (B, C, H, W)`` with the kernels generated from it."""
        check_map(x, self.channels, self)
        batch, size = x.shape[0], self.kernel_size
        if self.variant == "homogeneous":
            kernels = self.generate(x.mean((2, 3), keepdim=True), x).reshape(batch, self.channels, 1, size, size)
            biases = () if self.bias is None else (self.bias.expand(batch, -1),)
        else:
            kernels = self.generate(x, x).reshape(batch, -1, size, size, *x.shape[2:])
            biases = () if self.bias is None else (self.bias,)
        return self.dynamic(x, Generated((kernels, *biases)))

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, variant={self.variant!r}"


class Involution2d(_Generator):
    """Involution: a K×K kernel generated at each location, shared by the channels of a group.

    ``y[c, i] = Σ_u W[g(c), u, i] x[c, s·i + u − r]`` with ``W = conv2(ReLU(BN(conv1(pool x))))``, r = (K−1)/2, zero
    padding; pool is the average over s×s for stride s > 1.

    Args:
        channels: C.
        kernel_size: K, odd.
        stride: s, a divisor of H and W.
        group_channels: channels that share a kernel, a divisor of C.
        reduction: ``conv1`` has max(C // reduction, 1) outputs.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, C, H, W)`` gives ``(B, C, H/s, W/s)``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range, or BatchNorm in training mode has one value only.

    Source: Li et al. 2021, "Involution" (d-li14/involution). Differences:
        1. H and W that the stride does not divide are refused; there, unfold and pooling disagree about the size.

    Example:
        >>> Involution2d(8, kernel_size=3, stride=2, group_channels=4).eval()(torch.zeros(1, 8, 4, 6)).shape
        torch.Size([1, 8, 2, 3])
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        stride: int = 1,
        group_channels: int = 16,
        reduction: int = 4,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        check_int("channels", channels, call)
        check_odd("kernel_size", kernel_size, call)
        check_int("stride", stride, call)
        check_divides("group_channels", group_channels, "channels", channels, call)
        check_int("reduction", reduction, call)
        check_choice("lowering", lowering, LOWERINGS, call)
        factory = check_factory(device, dtype, call)
        super().__init__(channels, reduction, channels // group_channels * kernel_size**2, factory)
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.group_channels, self.reduction, self.lowering = group_channels, reduction, lowering
        self.dynamic = DynamicConvolution(SelectNone(), LocationKernels(channels, lowering, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve ``x (B, C, H, W)`` with the kernels generated at each location."""
        check_map(x, self.channels, self, divisor=self.stride)
        kernels = self.generate(F.avg_pool2d(x, self.stride) if self.stride > 1 else x, x)
        size = self.kernel_size
        return self.dynamic(x, Generated((kernels.reshape(x.shape[0], -1, size, size, *kernels.shape[2:]),)))

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}"
