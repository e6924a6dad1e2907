"""Linear attention as one dynamic convolution with a merged kernel."""

from __future__ import annotations

import torch

from equiv.conv.apply import Lowering, Merged
from equiv.conv.bank import KernelBank
from equiv.conv.base import TokenAttention, WindowedAttention
from equiv.conv.selection import SelectAll, SelectWindow
from equiv.errors import check_bool, check_choice, check_grid, check_int, check_shift

LINEAR_ACTIVATIONS = ("scaling", "none")


class LinearAttention(TokenAttention):
    """Attention without softmax as one dynamic 1×1 convolution with the merged kernel (Fig. 5, Eq. 4).

    ``y_i = s q_i K + Σ_j B_ij v_j`` with ``K = Σ_j k_jᵀ v_j (d×d)``, the pair ``d → N → d`` of
    :class:`~equiv.conv.GlobalAttention` merged into one kernel ``d → d``; the bias is a second convolution.

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``; d = D/h.
        activation: ``"scaling"``: s = 1/d; ``"none"``: s = 1.
        qkv_bias: whether q, k, v have a bias.
        relative_position: see :class:`~equiv.conv.GlobalAttention`.
        class_token: see :class:`~equiv.conv.GlobalAttention`.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, N, D)`` gives ``(B, N, D)``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: arXiv 2309.10713, Eq. 4.

    Example:
        >>> LinearAttention(8, 2)(torch.zeros(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        activation: str = "scaling",
        qkv_bias: bool = True,
        relative_position: tuple[int, int] | None = None,
        class_token: bool = False,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        self.check(call, dim, heads, qkv_bias, lowering)
        check_choice("activation", activation, LINEAR_ACTIVATIONS, call)
        grid = check_grid("relative_position", relative_position, call)
        check_bool("class_token", class_token, call)
        super().__init__(
            dim,
            heads,
            SelectAll(grid, class_token),
            Merged(activation, lowering),
            qkv_bias=qkv_bias,
            table=grid and (*grid, heads),
            device=device,
            dtype=dtype,
        )
        self.activation, self.relative_position, self.class_token = activation, grid, class_token
        self.lowering = lowering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the tokens ``x (B, N, D)``."""
        x = self.read_tokens(x)
        q, k, v = self.project(x)
        bank = KernelBank((k, v), (x.shape[2], 1))
        return self.write_tokens(self.dynamic(q, bank, self.relative_position_bias_table))


class LinearWindowAttention(WindowedAttention):
    """Window attention without softmax: one merged kernel for each window, or part of a shifted window.

    ``y_i = s q_i K_S + Σ_{j ∈ S} B_ij v_j`` with ``K_S = Σ_{j ∈ S} k_jᵀ v_j`` for S = S(i), the locations in the window
    of i (see :class:`~equiv.conv.WindowAttention`).

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``; d = D/h.
        window: side w of a window, at most H and W.
        shift: see :class:`~equiv.conv.WindowAttention`.
        activation: ``"scaling"``: s = 1/d; ``"none"``: s = 1.
        qkv_bias: whether q, k, v have a bias.
        relative_position: whether there is a learned bias B by relative position in the window.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, D, H, W)`` gives the same.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: arXiv 2309.10713, Eq. 4 and Table 2, in Swin's windows.

    Example:
        >>> LinearWindowAttention(8, 2, window=3, shift=1)(torch.zeros(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int = 7,
        shift: int | tuple[int, int] = 0,
        activation: str = "scaling",
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
        check_choice("activation", activation, LINEAR_ACTIVATIONS, call)
        check_bool("relative_position", relative_position, call)
        super().__init__(
            dim,
            heads,
            SelectWindow(window, shifts),
            Merged(activation, lowering),
            qkv_bias=qkv_bias,
            table=(window, window, heads) if relative_position else None,
            device=device,
            dtype=dtype,
        )
        self.window, self.shift, self.activation = window, shifts, activation
        self.relative_position, self.lowering = relative_position, lowering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend inside the windows of ``x (B, D, H, W)``."""
        padded = self.read_map(x)
        q, k, v = self.project(padded)
        bank = KernelBank((k, v), (padded.shape[2], padded.shape[3]))
        return self.write_map(self.dynamic(q, bank, self.relative_position_bias_table), padded, x)
