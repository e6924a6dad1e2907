"""What the attention operators share: heads and the relative position bias."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.errors import check_bool, check_divides, check_int
from equiv.matmul.modules import Linear


class MultiHead(nn.Module):
    """The arguments of all operators with heads, and their relative position bias on ``_grid``."""

    proj: Linear
    relative_position_bias_table: nn.Parameter | None
    _grid: tuple[int, int] | None

    def __init__(self, dim: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        call = type(self).__name__
        self.dim = check_int("dim", dim, call)
        self.heads = check_divides("heads", heads, "dim", dim, call)
        self.qkv_bias = check_bool("qkv_bias", qkv_bias, call)

    def _add_bias_table(self, columns: int, factory: dict[str, Any]) -> None:
        """Create the parameter, of shape ``((2·H−1)·(2·W−1), columns)`` for the grid (H, W)."""
        table = None
        if self._grid is not None:
            height, width = self._grid
            table = nn.Parameter(torch.empty((2 * height - 1) * (2 * width - 1), columns, **factory))
            nn.init.trunc_normal_(table, std=0.02)
        self.register_parameter("relative_position_bias_table", table)

    def _bias(self) -> torch.Tensor | None:
        if self.relative_position_bias_table is None or self._grid is None:
            return None
        return relative_position_bias(self.relative_position_bias_table, *self._grid)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``(..., N, heads·d)`` as ``(..., heads, N, d)``."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """``(..., heads, N, d)`` as ``(..., N, heads·d)``: the heads concatenated in order."""
    return x.transpose(-3, -2).flatten(-2)


def split_qkv(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(..., N, 3D)`` as q, k and v of shape ``(..., heads, N, d)``."""
    q, k, v = qkv.chunk(3, -1)
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def relative_position_bias(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The bias ``B`` of shape ``(columns, H·W, H·W)``; ``B[:, i, j]`` depends on Δ = position i − position j only.

    The index is computed on each call, so it is in no state dict and is always on the table's device.

    Example:
        >>> relative_position_bias(torch.arange(3.0)[:, None], 1, 2)
        tensor([[[1., 0.],
                 [2., 1.]]])
    """
    rows = torch.arange(height, device=table.device)
    columns = torch.arange(width, device=table.device)
    row_offset = rows[:, None] - rows + height - 1
    column_offset = columns[:, None] - columns + width - 1
    index = row_offset[:, None, :, None] * (2 * width - 1) + column_offset[None, :, None, :]
    return table[index.reshape(height * width, height * width)].permute(2, 0, 1)


def bias_sum(bias: torch.Tensor, z: torch.Tensor, class_token: bool) -> torch.Tensor:
    """``Σ_j B_ij z_j`` for ``z`` of shape ``(..., heads, N, d)``; a class token neither gives nor gets a term."""
    if not class_token:
        return torch.einsum("hij,...hjd->...hid", bias, z)
    return F.pad(torch.einsum("hij,...hjd->...hid", bias, z[..., 1:, :]), (0, 0, 1, 0))
