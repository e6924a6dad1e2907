"""Dynamic convolutions written differently, for ``rewrites.py``: each function is another forward of ``op``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def routing(op: Any, x: torch.Tensor) -> torch.Tensor:
    return (op.fc2(F.relu(op.fc1(x.flatten(2).mean(2)))) / op.temperature).softmax(1)


def sum_of_convolutions(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The results of all kernels mixed, not the kernels."""
    pairs = zip(op.weight, op.bias, routing(op, x).T, strict=True)
    return sum(c[:, None, None, None] * F.conv2d(x, w, b, padding=op.padding) for w, b, c in pairs)


def image_loop(op: Any, x: torch.Tensor) -> torch.Tensor:
    mixed = ((c @ op.weight.flatten(1), c @ op.bias) for c in routing(op, x))
    kernels = ((weight.view(op.weight.shape[1:]), bias) for weight, bias in mixed)
    return torch.stack([F.conv2d(one, w, b, padding=op.padding) for one, (w, b) in zip(x, kernels, strict=True)])


def folded(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Each location sends its products to its neighbours, which fold adds up."""
    c = routing(op, x)
    kernel = torch.einsum("bm,mocuv->bouvc", c, op.weight.flip(3, 4)).flatten(1, 3)
    y = F.fold(kernel @ x.flatten(2), x.shape[2:], op.kernel_size, padding=op.padding)
    return y + (c @ op.bias)[..., None, None]


def grouped_by_loop(op: Any, x: torch.Tensor) -> torch.Tensor:
    c = routing(op, x)
    kernel = (c @ op.weight.flatten(1)).view(len(x), *op.weight.shape[1:])
    parts = []
    for group, outputs in zip(x.chunk(op.groups, 1), kernel.chunk(op.groups, 1), strict=True):
        patches = F.pad(group, [1, 1, 1, 1]).unfold(2, 3, 1).unfold(3, 3, 1)
        parts.append(torch.einsum("bchwuv,bocuv->bohw", patches, outputs))
    return torch.cat(parts, 1) + (c @ op.bias)[..., None, None]


def generated(op: Any, features: torch.Tensor) -> torch.Tensor:
    """The output of the two convolutions that generate kernels, with BatchNorm folded into the first."""
    scale = op.bn.weight * (op.bn.running_var + op.bn.eps).rsqrt()
    hidden = F.conv2d(
        features, (scale[:, None] * op.conv1.weight)[..., None, None], op.bn.bias - op.bn.running_mean * scale
    )
    return F.conv2d(hidden.relu(), op.conv2.weight[..., None, None], op.conv2.bias)


def depthwise_by_groups(op: Any, x: torch.Tensor) -> torch.Tensor:
    """All images and channels as groups of one convolution."""
    size, channels = op.kernel_size, x.shape[0] * x.shape[1]
    kernel = generated(op, x.mean((2, 3), keepdim=True)).view(channels, 1, size, size)
    y = F.conv2d(x.reshape(1, channels, *x.shape[2:]), kernel, padding=size // 2, groups=channels)
    return y.view(x.shape) + op.bias[:, None, None]


def depthwise_by_products(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Kernel by kernel entry: a shift by roll, with what came around set to 0."""
    size, (height, width), y = op.kernel_size, x.shape[2:], op.bias[:, None, None]
    kernel = generated(op, x.mean((2, 3), keepdim=True)).unflatten(1, (-1, size, size))[..., 0, 0]
    for u in range(-(size // 2), size // 2 + 1):
        for v in range(-(size // 2), size // 2 + 1):
            rows, columns = torch.arange(height) + u, torch.arange(width) + v
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            y = y + kernel[:, :, u + size // 2, v + size // 2, None, None] * x.roll((-u, -v), (2, 3)) * inside
    return y


def batch_norm_by_hand(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Training: the batch's statistics, and the running ones updated in place."""
    bn, hidden = op.bn, torch.einsum("bchw,oc->bohw", x, op.conv1.weight)
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    count = wide.numel() / wide.shape[1]
    with torch.no_grad():
        bn.running_mean.copy_(torch.lerp(bn.running_mean.to(wide.dtype), mean, bn.momentum))
        bn.running_var.copy_(torch.lerp(bn.running_var.to(wide.dtype), variance * count / (count - 1), bn.momentum))
        bn.num_batches_tracked.add_(1)
    mean, variance = mean[:, None, None], variance[:, None, None]
    hidden = ((wide - mean) / (variance + bn.eps).sqrt()).to(hidden.dtype)
    hidden = (hidden * bn.weight[:, None, None] + bn.bias[:, None, None]).relu()
    kernels = F.conv2d(hidden, op.conv2.weight[..., None, None], op.conv2.bias)
    return patch_products(op, kernels, x) + op.bias[:, None, None]


def patch_products(op: Any, kernels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A convolution with a kernel per location as an einsum over patches."""
    size, reach = op.kernel_size, op.kernel_size // 2
    patches = F.pad(x, [reach] * 4).unfold(2, size, 1).unfold(3, size, 1).unflatten(1, (op.groups, -1))
    return torch.einsum("bguvhw,bgchwuv->bgchw", kernels.unflatten(1, (-1, size, size)), patches).flatten(1, 2)


def involution_by_shifts(op: Any, x: torch.Tensor) -> torch.Tensor:
    size, s, (height, width) = op.kernel_size, op.stride, x.shape[2:]
    kernels = generated(op, x.unfold(2, s, s).unfold(3, s, s).mean((4, 5))).unflatten(1, (op.groups, size * size))
    padded = F.pad(x, [size // 2] * 4)
    shifts = [padded[:, :, u : u + height : s, v : v + width : s] for u in range(size) for v in range(size)]
    stacked = torch.stack(shifts, 2).unflatten(1, (op.groups, -1))
    return (kernels[:, :, None] * stacked).sum(3).flatten(1, 2)


def involution_by_patches(op: Any, x: torch.Tensor) -> torch.Tensor:
    return patch_products(op, generated(op, x), x)
