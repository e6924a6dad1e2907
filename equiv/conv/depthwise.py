"""Depth-wise attention: one depth-wise dynamic convolution instead of a pair."""

from __future__ import annotations

import torch

from equiv.conv.apply import DepthwiseMean, Lowering
from equiv.conv.bank import KernelBank, split_heads
from equiv.conv.base import Attention, TokenAttention, WindowedAttention
from equiv.conv.selection import SelectAll, SelectWindow
from equiv.errors import check_bool, check_choice, check_grid, check_int, check_shift

BIAS_TABLES = ("head", "channel")
VALUES = ("k", "q", "x")


class DepthwiseAttention(TokenAttention):
    """Depth-wise attention as one dynamic depth-wise 1×1 convolution with the average of all kernels (Eq. 5).

    ``y_i = q_i ⊙ mean_j k_j + Σ_j B_ij z_j``: there are no values; the bias term, if any, acts on z.

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``.
        bias_table: B has one entry for each ``"head"`` or for each ``"channel"``.
        values: z, one of ``"k"``, ``"q"``, ``"x"`` (the operator's input).
        qkv_bias: whether q and k have a bias.
        relative_position: see :class:`~equiv.conv.GlobalAttention`.
        class_token: token 0 is a class token: it takes part in the mean; its row and column of B are 0.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, N, D)`` gives ``(B, N, D)``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: arXiv 2309.10713, Eq. 5. Choices where the text is lost:
        1. z is an option; k, the only bank left, is the default.
        2. The class token counts in the mean.

    Example:
        >>> DepthwiseAttention(8, 2, relative_position=(2, 2))(torch.zeros(1, 4, 8)).shape
        torch.Size([1, 4, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias_table: str = "head",
        values: str = "k",
        qkv_bias: bool = True,
        relative_position: tuple[int, int] | None = None,
        class_token: bool = False,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        self.check(call, dim, heads, qkv_bias, lowering)
        check_choice("bias_table", bias_table, BIAS_TABLES, call)
        check_choice("values", values, VALUES, call)
        grid = check_grid("relative_position", relative_position, call)
        check_bool("class_token", class_token, call)
        super().__init__(
            dim,
            heads,
            SelectAll(grid, class_token),
            DepthwiseMean(lowering),
            qkv_bias=qkv_bias,
            table=grid and (*grid, heads if bias_table == "head" else dim),
            maps=2,
            device=device,
            dtype=dtype,
        )
        self.bias_table, self.values, self.relative_position = bias_table, values, grid
        self.class_token, self.lowering = class_token, lowering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the tokens ``x (B, N, D)``."""
        x = self.read_tokens(x)
        q, bank = _bank(self, x, self.values)
        return self.write_tokens(self.dynamic(q, bank, self.relative_position_bias_table))


class DepthwiseWindowAttention(WindowedAttention):
    """Depth-wise attention inside windows: the average kernel of each window, or part of a shifted window.

    ``y_i = q_i ⊙ mean_{j ∈ S} k_j + Σ_{j ∈ S} B_ij z_j`` for S = S(i), the locations in the window of i
    (see :class:`~equiv.conv.WindowAttention`).

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``.
        window: side w of a window, at most H and W.
        shift: see :class:`~equiv.conv.WindowAttention`.
        bias_table: B has one entry for each ``"head"`` (Swin-B in the paper) or each ``"channel"`` (Swin-T).
        values: z, one of ``"k"``, ``"q"``, ``"x"`` (the operator's input, 0 at padded locations).
        qkv_bias: whether q and k have a bias.
        relative_position: whether there is a learned bias B by relative position in the window.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, D, H, W)`` gives the same.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: arXiv 2309.10713, Eq. 5, in Swin's windows; the mean runs over the locations of S(i) only.

    Example:
        >>> DepthwiseWindowAttention(8, 2, window=3, shift=1)(torch.zeros(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int = 7,
        shift: int | tuple[int, int] = 0,
        bias_table: str = "head",
        values: str = "k",
        qkv_bias: bool = True,
        relative_position: bool = True,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        self.check(call, dim, heads, qkv_bias, lowering)
        check_int("window", window, call)
        shifts = check_shift(shift, window, call)
        check_choice("bias_table", bias_table, BIAS_TABLES, call)
        check_choice("values", values, VALUES, call)
        check_bool("relative_position", relative_position, call)
        super().__init__(
            dim,
            heads,
            SelectWindow(window, shifts),
            DepthwiseMean(lowering),
            qkv_bias=qkv_bias,
            table=(window, window, heads if bias_table == "head" else dim) if relative_position else None,
            maps=2,
            device=device,
            dtype=dtype,
        )
        self.window, self.shift, self.bias_table, self.values = window, shifts, bias_table, values
        self.relative_position, self.lowering = relative_position, lowering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend inside the windows of ``x (B, D, H, W)``."""
        padded = self.read_map(x)
        q, bank = _bank(self, padded, self.values)
        return self.write_map(self.dynamic(q, bank, self.relative_position_bias_table), padded, x)


def _bank(operator: Attention, x: torch.Tensor, values: str) -> tuple[torch.Tensor, KernelBank]:
    """Queries and the bank of the kernels k and z, from the feature map ``x``."""
    q, k = operator.project(x)
    z = {"k": k, "q": q}[values] if values != "x" else split_heads(x, 1, operator.heads)[0]
    return q, KernelBank((k, z), (x.shape[2], x.shape[3]))
