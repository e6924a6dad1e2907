"""Window attention as a dynamic convolution: each location uses the kernels generated inside its window."""

from __future__ import annotations

import math

import torch

from equiv.conv.apply import ACTIVATIONS, Lowering, Paired
from equiv.conv.bank import KernelBank
from equiv.conv.base import WindowedAttention
from equiv.conv.selection import SelectWindow
from equiv.errors import check_bool, check_choice, check_int, check_mask_value, check_shift


class WindowAttention(WindowedAttention):
    """(Shifted) window attention (Swin) as a paired dynamic 1×1 convolution with a hard, local selection.

    ``y_i = Σ_{j ∈ S(i)} φ_j(s q_i·k_j + B_ij) v_j``; S(i) are the locations in the window of i, picked from the bank by
    index sets. A shifted window at the edge of the map falls into parts, and S(i) is the part of i.

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``; d = D/h.
        window: side w of a window, at most H and W.
        shift: how far the window grid is displaced, one number or ``(rows, columns)``, less than ``window``; 0 along an
            axis where one window covers the (padded) map.
        mask_value: −∞: kernels of the other parts of a shifted window are excluded (weight 0). A finite number:
            windows wrap around the map and those kernels' logits are lowered by it (Swin code uses −100, which is a
            different function); with ``activation="softmax"`` only.
        activation: φ and s, see :class:`~equiv.conv.GlobalAttention`.
        qkv_bias: whether q, k, v have a bias.
        relative_position: whether there is a learned bias B by relative position in the window.
        lowering: see :class:`~equiv.conv.GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, D, H, W)`` gives the same. Maps are zero-padded at the bottom and on the right to whole windows;
    padded locations contribute kernels (k and v are then the biases), as in Swin.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: Liu et al. 2021, "Swin Transformer", read as Fig. 3 of arXiv 2309.10713. Differences:
        1. No cyclic shift: the excluded parts are windows of their own.
        2. The mask defaults to −∞, the exact exclusion, not to −100.

    Example:
        >>> WindowAttention(8, 2, window=3, shift=1)(torch.zeros(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int = 7,
        shift: int | tuple[int, int] = 0,
        mask_value: float = -math.inf,
        activation: str = "softmax",
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
        check_choice("activation", activation, ACTIVATIONS, call)
        mask_value = check_mask_value(mask_value, activation, call)
        check_bool("relative_position", relative_position, call)
        super().__init__(
            dim,
            heads,
            SelectWindow(window, shifts, mask_value),
            Paired(activation, lowering),
            qkv_bias=qkv_bias,
            table=(window, window, heads) if relative_position else None,
            device=device,
            dtype=dtype,
        )
        self.window, self.shift, self.mask_value, self.activation = window, shifts, mask_value, activation
        self.relative_position, self.lowering = relative_position, lowering

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend inside the windows of ``x (B, D, H, W)``."""
        padded = self.read_map(x)
        q, k, v = self.project(padded)
        bank = KernelBank((k, v), (padded.shape[2], padded.shape[3]))
        return self.write_map(self.dynamic(q, bank, self.relative_position_bias_table), padded, x)
