"""Dynamic convolutions on maps: D-Conv (Chen et al. 2020) and D-DW-Conv (Han et al. 2021), by unfolding."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.errors import (
    check_batch_statistics,
    check_bool,
    check_choice,
    check_divides,
    check_factory,
    check_int,
    check_map,
    check_odd,
    check_positive,
    message,
)
from equiv.layout import map_to_tokens, tokens_to_map
from equiv.matmul.modules import Linear, options

VARIANTS = ("homogeneous", "inhomogeneous")


class DynamicConv2d(nn.Module):
    """A convolution whose kernel is a mixture of M learned ones, with coefficients predicted from the image.

    ::

        π(x) = softmax(fc2(ReLU(fc1(GAP x)))/τ)        y = (Σ_m π_m(x) W_m) * x + Σ_m π_m(x) b_m

    with GAP the mean over all locations, ``τ = temperature`` and ``*`` a convolution with zero padding: one kernel per
    image.

    Shapes: input ``(B, C, H, W)``, C = ``channels``; output ``(B, C', H', W')`` with
    ``H' = ⌊(H + 2·padding − dilation·(K − 1) − 1)/stride⌋ + 1``, K = ``kernel_size``; ``weight``
    ``(M, C', C/groups, K, K)``, ``bias`` ``(M, C')``, ``fc1.weight`` ``(max(C//reduction, 1), C)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        channels: input channels C.
        out_channels: output channels C'; ``None`` for C.
        kernel_size, stride, dilation, groups: those of a convolution; integers.
        padding: zeros on each side; ``None`` for ``dilation·(K−1)/2``, then K must be odd.
        kernels: number M of learned kernels.
        reduction: C over the width of the hidden layer.
        temperature: τ, a plain attribute for training to lower; the paper goes from 30 to 1 in 10 epochs.
        bias: whether there is a mixed bias.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these, such as an input too small for
            the kernel, or a ``temperature`` that was set to one; the message names the argument.

    Follows "Dynamic Convolution: Attention over Convolution Kernels" (CVPR 2020).

    Example:
        >>> convolution = DynamicConv2d(8, out_channels=6, stride=2, groups=2)
        >>> convolution(torch.randn(4, 8, 5, 7)).shape
        torch.Size([4, 6, 3, 4])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        kernels: int = 4,
        reduction: int = 4,
        temperature: float = 30.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.channels = check_int("channels", channels, call)
        self.out_channels = channels if out_channels is None else check_int("out_channels", out_channels, call)
        self.kernel_size = (check_odd if padding is None else check_int)("kernel_size", kernel_size, call)
        self.stride = check_int("stride", stride, call)
        self.dilation = check_int("dilation", dilation, call)
        if padding is None:
            padding = dilation * (kernel_size - 1) // 2
        self.padding = check_int("padding", padding, call, minimum=0)
        self.groups = check_divides("groups", groups, "channels", channels, call)
        check_divides("groups", groups, "out_channels", self.out_channels, call)
        self.kernels = check_int("kernels", kernels, call)
        self.reduction = check_int("reduction", reduction, call)
        self.temperature = check_positive("temperature", temperature, call)
        check_bool("bias", bias, call)

        shape = (kernels, self.out_channels, channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        biases = None
        if bias:
            bound = (channels // groups * kernel_size**2) ** -0.5
            biases = nn.Parameter(torch.empty(kernels, self.out_channels, **factory).uniform_(-bound, bound))
        self.register_parameter("bias", biases)
        hidden = max(channels // reduction, 1)
        self.fc1 = Linear(channels, hidden, **factory)
        self.fc2 = Linear(hidden, kernels, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        call = type(self).__name__
        temperature = check_positive("temperature", self.temperature, call)
        extent = self.dilation * (self.kernel_size - 1) + 1
        check_map(x, self.channels, self, minimum=max(extent - 2 * self.padding, 1))
        height, width = ((n + 2 * self.padding - extent) // self.stride + 1 for n in x.shape[2:])

        coefficients = (self.fc2(self.fc1(x.mean((2, 3))).relu()) / temperature).softmax(-1)
        weight = coefficients @ self.weight.flatten(1)
        patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        # Per image and group: (C'/groups, C/groups·K²) @ (C/groups·K², H'·W')
        weight = weight.unflatten(1, (self.groups, self.out_channels // self.groups, -1))
        y = (weight @ patches.unflatten(1, (self.groups, -1))).flatten(1, 2)
        if self.bias is not None:
            y = y + (coefficients @ self.bias)[..., None]
        return y.unflatten(2, (height, width))

    def extra_repr(self) -> str:
        names = ("channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "kernels")
        return options(self, *names, "reduction", "temperature") + f", bias={self.bias is not None}"


class GeneratedKernels(nn.Module):
    """The base of operators that predict a kernel of size K×K per location and group by two 1×1 convolutions."""

    def __init__(
        self, channels: int, group_channels: int, kernel_size: int, reduction: int, factory: dict[str, Any]
    ) -> None:
        super().__init__()
        call = type(self).__name__
        self.channels = check_int("channels", channels, call)
        self.groups = channels // check_divides("group_channels", group_channels, "channels", channels, call)
        self.kernel_size = check_odd("kernel_size", kernel_size, call)
        self.reduction = check_int("reduction", reduction, call)
        hidden = max(channels // reduction, 1)
        self.conv1 = Linear(channels, hidden, bias=False, **factory)
        self.bn = nn.BatchNorm2d(hidden, **factory)
        self.conv2 = Linear(hidden, self.groups * kernel_size**2, **factory)

    def _generate(self, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``conv2(ReLU(bn(conv1(features))))`` at each location: ``(B, groups, 1, K², locations)``."""
        batch, _, height, width = features.shape
        check_batch_statistics(x, batch * height * width, self.bn, type(self).__name__)
        hidden = self.bn(tokens_to_map(self.conv1(map_to_tokens(features)), height, width)).relu()
        return self.conv2(map_to_tokens(hidden)).transpose(1, 2).unflatten(1, (self.groups, 1, -1))

    def _multiply(self, kernels: torch.Tensor, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        """Each K×K patch of ``x`` times the kernel of its location and group, summed over the patch."""
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=stride)
        y = (kernels * patches.unflatten(1, (self.groups, self.channels // self.groups, -1))).sum(3)
        return y.flatten(1, 2).unflatten(2, (x.shape[2] // stride, x.shape[3] // stride))


class DynamicDepthwiseConv2d(GeneratedKernels):
    """A depth-wise convolution whose kernels are predicted from the input, without any bank.

    With r = (K − 1)/2 and zero padding::

        W = conv2(ReLU(bn(conv1(GAP x))))        y[c,h,w] = Σ_uv W[c,u,v] x[c,h+u−r,w+v−r] + bias[c]
        W = conv2(ReLU(bn(conv1(x))))            y[c,h,w] = Σ_uv W[g(c),u,v,h,w] x[c,h+u−r,w+v−r] + bias[c]

    for ``variant="homogeneous"`` (one kernel per channel and image) and ``"inhomogeneous"`` (one per location and
    group of channels, ``g(c) = c // group_channels``). GAP is the mean over all locations; row ``g·K² + u·K + v`` of
    ``conv2`` gives ``W[g,u,v]``.

    Shapes: input and output ``(B, C, H, W)``, C = ``channels``, K = ``kernel_size``; ``conv1.weight`` ``(hidden, C)``
    with hidden = ``max(C//reduction, 1)``, ``conv2.weight`` ``(C·K², hidden)`` or ``(C/group_channels·K², hidden)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        channels: channels C.
        kernel_size: K, odd.
        variant: ``"homogeneous"`` or ``"inhomogeneous"``.
        group_channels: channels that share a kernel in the inhomogeneous variant, a divisor of C; ``None`` for 1.
        reduction: C over the width of the hidden layer.
        bias: whether there is a static bias per channel.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these, and on one value per channel for
            a BatchNorm in training mode; the message names the argument.

    Follows ``Atten4Vis/DemystifyLocalViT`` (Han et al.), except:
        1. Its HEAD overwrites the homogeneous dynamic convolution with a static one, a bug; ours is dynamic.

    Example:
        >>> convolution = DynamicDepthwiseConv2d(8, kernel_size=3, variant="inhomogeneous", group_channels=2)
        >>> convolution(torch.randn(4, 8, 5, 7)).shape
        torch.Size([4, 8, 5, 7])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        variant: str = "homogeneous",
        group_channels: int | None = None,
        reduction: int = 4,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        if check_choice("variant", variant, VARIANTS, call) == "homogeneous" and group_channels is not None:
            raise ValueError(message("group_channels", group_channels, f"None with `variant`={variant!r}", call))
        check_bool("bias", bias, call)
        super().__init__(channels, 1 if group_channels is None else group_channels, kernel_size, reduction, factory)
        self.variant = variant
        self.group_channels = group_channels
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels, **factory)) if bias else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_map(x, self.channels, self)
        features = x.mean((2, 3), keepdim=True) if self.variant == "homogeneous" else x
        y = self._multiply(self._generate(features, x), x)
        return y if self.bias is None else y + self.bias[:, None, None]

    def extra_repr(self) -> str:
        names = ("channels", "kernel_size", "variant", "group_channels", "reduction")
        return options(self, *names) + f", bias={self.bias is not None}"
