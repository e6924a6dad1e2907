"""Merging two consecutive linear 1×1 convolutions into one (Fig. 5, Eq. 4).

The order of the two does not matter to the function but to the cost: a pair ``d → M → d'`` takes ``M(d + d')``
products at each location, the merged kernel ``d·d'``. Nothing may stand between the two but a linear map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.conv.apply import merge_pair
from equiv.conv.attention import GlobalAttention
from equiv.conv.linear import LINEAR_ACTIVATIONS, LinearAttention, LinearWindowAttention
from equiv.conv.window import WindowAttention
from equiv.errors import check_matrix, message


def merge_kernels(
    first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Merge a pair of dynamic 1×1 kernels and its bias on the kernel axis.

    ``Σ_j (q_i·k_j + B_ij) v_j = q_i K + b_i`` with ``K = Σ_j k_jᵀ v_j`` and ``b_i = Σ_j B_ij v_j`` (Eq. 4).

    Args:
        first: kernels ``k_j``, rows of ``(…, M, d)``.
        second: kernels ``v_j``, rows of ``(…, M, d')``.
        bias: B, ``(…, L, M)`` for L locations, or ``None``.

    Returns:
        K ``(…, d, d')``, to be applied as ``q @ K``, and b ``(…, L, d')`` or ``None``.

    Raises:
        TypeError: an argument is no dense tensor of a floating dtype.
        ValueError: shapes, dtypes or devices do not fit, or there are no kernels.

    Example:
        >>> q, k, v = torch.randn(7, 4), torch.randn(5, 4), torch.randn(5, 3)
        >>> kernel, _ = merge_kernels(k, v)
        >>> torch.allclose(q @ kernel, (q @ k.T) @ v, atol=1e-5)
        True
    """
    call = "merge_kernels"
    check_matrix("first", first, call)
    check_matrix("second", second, call, like=first)
    *lead, count, _ = first.shape
    if not first.numel():
        raise ValueError(message("first", first, "of at least one kernel and channel", call))
    if second.shape[:-1] != first.shape[:-1]:
        raise ValueError(message("second", second, f"of shape {(*lead, count)} + (d',), as `first`", call))
    if bias is not None:
        check_matrix("bias", bias, call, like=first)
        # fewer leading axes: the bias is shared, as between images
        if bias.shape[-1] != count or tuple(bias.shape[:-2]) != tuple(lead[len(lead) - bias.dim() + 2 :]):
            raise ValueError(message("bias", bias, f"of shape {tuple(lead)} + (L, {count})", call))
    merged = merge_pair(second.transpose(-1, -2), first.transpose(-1, -2))
    return merged, None if bias is None else bias @ second


def merge_static(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Merge ``second(first(x))`` of two static 1×1 convolutions: ``W = W₂ W₁``, ``b = W₂ b₁ + b₂``.

    Args:
        first: 1×1 convolution, C → M, any stride, no padding, groups or dilation.
        second: 1×1 convolution, M → C', likewise.

    Returns:
        A new 1×1 convolution C → C' with the product of the strides, on the dtype and device of ``first``.

    Raises:
        TypeError: an argument is not an ``nn.Conv2d``.
        ValueError: a kernel is not 1×1, is grouped or padded, or channels, dtypes or devices do not match.

    Example:
        >>> pair = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        >>> x = torch.randn(2, 3, 4, 4)
        >>> torch.allclose(merge_static(*pair)(x), pair[1](pair[0](x)), atol=1e-5)
        True
    """
    for name, module in (("first", first), ("second", second)):
        _check_static(name, module)
    if first.out_channels != second.in_channels:
        expected = f"an nn.Conv2d of {first.out_channels} input channels, as `first` gives"
        raise ValueError(message("second", second, expected, "merge_static"))
    if (first.weight.dtype, first.weight.device) != (second.weight.dtype, second.weight.device):
        expected = f"of {first.weight.dtype} on {first.weight.device}, as `first`"
        raise ValueError(message("second", second.weight, expected, "merge_static"))
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    bias = first.bias is not None or second.bias is not None
    merged = nn.Conv2d(
        first.in_channels,
        second.out_channels,
        1,
        stride=(stride[0], stride[1]),
        bias=bias,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    with torch.no_grad():
        merged.weight.copy_(F.conv2d(first.weight.transpose(0, 1), second.weight).transpose(0, 1))
        if merged.bias is not None:
            merged.bias.zero_()
            if first.bias is not None:
                merged.bias += second.weight.flatten(1) @ first.bias
            if second.bias is not None:
                merged.bias += second.bias
    return merged


def _check_static(name: str, module: Any) -> None:
    if not isinstance(module, nn.Conv2d):
        raise TypeError(message(name, type(module).__name__, "an nn.Conv2d", "merge_static"))
    plain = module.kernel_size == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "valid", "same")
    if not plain:
        raise ValueError(message(name, module, "a 1×1 convolution without groups and padding", "merge_static"))


def merge_attention(attention: Any) -> LinearAttention | LinearWindowAttention:
    """The linear operator that computes the same as ``attention``, by merged kernels; it shares its parameters.

    Args:
        attention: a conv form with ``activation="scaling"`` or ``"none"`` (and ``mask_value=-inf``).

    Returns:
        :class:`LinearAttention` for :class:`GlobalAttention`, :class:`LinearWindowAttention` for
        :class:`WindowAttention`, with the *same* parameter objects.

    Raises:
        TypeError: ``attention`` is another operator.
        ValueError: its activation is not linear, so that its pair of kernels cannot be merged.

    Example:
        >>> pair = GlobalAttention(8, 2, activation="scaling")
        >>> x = torch.randn(1, 5, 8)
        >>> torch.allclose(merge_attention(pair)(x), pair(x), atol=1e-5)
        True
    """
    call = "merge_attention"
    if not isinstance(attention, GlobalAttention | WindowAttention):
        expected = "a conv.GlobalAttention or conv.WindowAttention"
        raise TypeError(message("attention", type(attention).__name__, expected, call))
    if attention.activation not in LINEAR_ACTIVATIONS:
        expected = "'scaling' or 'none': only a linear pair can be merged"
        raise ValueError(message("attention.activation", attention.activation, expected, call))
    options: dict[str, Any] = {
        "activation": attention.activation,
        "qkv_bias": attention.qkv_bias,
        "lowering": attention.lowering,
        "device": "meta",  # the parameters are replaced below
    }
    merged: LinearAttention | LinearWindowAttention
    if isinstance(attention, GlobalAttention):
        grid, token = attention.relative_position, attention.class_token
        merged = LinearAttention(attention.dim, attention.heads, relative_position=grid, class_token=token, **options)
    else:
        options |= {"window": attention.window, "shift": attention.shift}
        options["relative_position"] = attention.relative_position
        merged = LinearWindowAttention(attention.dim, attention.heads, **options)
    merged.qkv, merged.proj = attention.qkv, attention.proj
    merged.relative_position_bias_table = attention.relative_position_bias_table
    return merged.train(attention.training)
