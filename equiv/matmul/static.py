"""A static convolution as a matrix product on unfolded patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Conv2d(nn.Conv2d):
    """``y[b, :, i] = W vec(patch_i(x_b)) + bias``: a K×K convolution of one group, written as a product.

    The parameters are those of ``nn.Conv2d``, ``weight (out, in, K, K)`` and ``bias (out,)``; a patch is unfolded
    channel by channel, as the weight is. Zero padding.

    Shapes: ``x (B, in, H, W)`` gives ``(B, out, H', W')`` as ``nn.Conv2d`` does.

    Raises:
        ValueError: groups, or padding that is not of zeros.

    Example:
        >>> convolution = Conv2d(3, 5, 4, stride=4)
        >>> convolution(torch.randn(2, 3, 8, 12)).shape
        torch.Size([2, 5, 2, 3])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError("one group and padding by zeros, a number, are all that this form has")
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        sizes = zip(x.shape[2:], self.padding, extents, self.stride, strict=True)
        height, width = ((n + 2 * p - e) // s + 1 for n, p, e, s in sizes)
        patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        y = F.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)
        return y.transpose(1, 2).unflatten(2, (height, width))
