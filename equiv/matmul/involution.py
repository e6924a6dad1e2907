"""Involution (Li et al. 2021): a kernel per location, shared by a group of channels, by unfolding."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from equiv.errors import check_factory, check_int, check_map
from equiv.matmul.dynamic import GeneratedKernels
from equiv.matmul.modules import options


class Involution2d(GeneratedKernels):
    """A convolution whose kernel is predicted at each location and shared by ``group_channels`` channels.

    With s = ``stride``, r = (K − 1)/2, zero padding, and x pooled by the mean over s×s blocks if s > 1::

        W = conv2(ReLU(bn(conv1(pool_s x))))        y[c,h,w] = Σ_uv W[g(c),u,v,h,w] x[c,s·h+u−r,s·w+v−r]

    where ``g(c) = c // group_channels`` and row ``g·K² + u·K + v`` of ``conv2`` gives ``W[g,u,v]``.

    Shapes: input ``(B, C, H, W)``, C = ``channels``, H and W multiples of s; output ``(B, C, H/s, W/s)``;
    ``conv1.weight`` ``(hidden, C)`` with hidden = ``max(C//reduction, 1)``; ``conv2.weight``
    ``(C/group_channels·K², hidden)``, K = ``kernel_size``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        channels: channels C.
        kernel_size: K, odd.
        stride: s.
        group_channels: channels that share a kernel, a divisor of C.
        reduction: C over the width of the hidden layer.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these, and on one value per channel for
            a BatchNorm in training mode; the message names the argument.

    Follows ``d-li14/involution``, except:
        1. Maps that the stride does not divide are refused; there, pooling and sampling disagree on their size.

    Example:
        >>> involution = Involution2d(16, kernel_size=3, stride=2, group_channels=8)
        >>> involution(torch.randn(2, 16, 4, 6)).shape
        torch.Size([2, 16, 2, 3])
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        stride: int = 1,
        group_channels: int = 16,
        reduction: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        stride = check_int("stride", stride, call)
        super().__init__(channels, group_channels, kernel_size, reduction, check_factory(device, dtype, call))
        self.stride = stride
        self.group_channels = group_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stride = self.stride
        check_map(x, self.channels, self, divisor=stride)
        features = F.avg_pool2d(x, stride) if stride > 1 else x
        return self._multiply(self._generate(features, x), x, stride)

    def extra_repr(self) -> str:
        return options(self, "channels", "kernel_size", "stride", "group_channels", "reduction")
