"""Attention inside shifted windows (Swin, Liu et al. 2021), and the frame of all operators inside windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from equiv.errors import check_bool, check_choice, check_factory, check_int, check_map, check_mask_value, check_shift
from equiv.matmul.activation import ACTIVATIONS
from equiv.matmul.attention import attend
from equiv.matmul.heads import MultiHead, split_qkv
from equiv.matmul.modules import Linear, options


def partition(x: torch.Tensor, window: int) -> torch.Tensor:
    """A map ``(B, C, H, W)`` as windows ``(B, H·W/w², w², C)``, row by row.

    Example:
        >>> partition(torch.arange(8).view(1, 1, 2, 4), 2)[0, :, :, 0]
        tensor([[0, 1, 4, 5],
                [2, 3, 6, 7]])
    """
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # (B, C, rows, w, columns, w)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def merge(windows: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`partition`."""
    rows, columns = height // window, width // window
    x = windows.unflatten(2, (window, window)).unflatten(1, (rows, columns))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def selected_pairs(
    size: tuple[int, int], window: int, shift: tuple[int, int], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Which (query, key) pairs of each window stay together after the cyclic shift: ``(windows, w², w²)``, boolean.

    The last ``shift`` rows and columns came from the other end of the map. Swin labels three bands per axis; two are
    enough, since only pairs within a window are compared.

    Example:
        >>> selected_pairs((2, 4), 2, (0, 1))[:, 0]  # the first query of each of two windows
        tensor([[ True,  True,  True,  True],
                [ True, False,  True, False]])
    """
    rows = torch.arange(size[0], device=device) >= size[0] - shift[0]
    columns = torch.arange(size[1], device=device) >= size[1] - shift[1]
    region = partition((2 * rows[:, None] + columns)[None, None], window)[0, :, :, 0]
    return region[:, :, None] == region[:, None, :]


class WindowOperator(MultiHead):
    """The arguments of the operators inside windows, and the frame of their forward: subclasses define ``_inside``."""

    def __init__(
        self,
        dim: int,
        heads: int,
        qkv_bias: bool,
        window: int,
        shift: int | tuple[int, int],
        relative_position: bool,
    ) -> None:
        super().__init__(dim, heads, qkv_bias)
        call = type(self).__name__
        self.window = check_int("window", window, call)
        self.shift = check_shift(shift, window, call)
        self.relative_position = check_bool("relative_position", relative_position, call)
        self._grid = (window, window) if relative_position else None

    def _inside(self, x: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
        """The operator on windows ``(B, windows, w², C)``."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_map(x, self.dim, self, minimum=self.window)
        window, (height, width) = self.window, x.shape[2:]
        x = F.pad(x, (0, -width % window, 0, -height % window))
        size = (x.shape[2], x.shape[3])
        # torchvision's rule: an axis of one window is not shifted, as there is no neighbour to reach.
        rows, columns = (s if n > window else 0 for s, n in zip(self.shift, size, strict=True))
        selected = selected_pairs(size, window, (rows, columns), x.device) if rows or columns else None
        windows = partition(x.roll((-rows, -columns), (2, 3)), window)
        y = merge(self._inside(windows, selected), window, *size)
        return y.roll((rows, columns), (2, 3))[:, :, :height, :width]


class WindowAttention(WindowOperator):
    """Multi-head self-attention inside non-overlapping windows of w × w locations, shifted cyclically.

    The map is padded with zeros at the bottom and right to multiples of ``window``, rolled by −``shift`` and cut into
    windows. For the locations i, j of one window, per head, with ``(q, k, v) = qkv(x)``::

        z_ij = s·q_i·k_j + B_ij        y_i = Σ_j φ_j(z_i) v_j        output: proj(concat_heads(y))

    and the result is put together, rolled back and cropped. ``s`` and ``φ`` as in :class:`GlobalAttention`. Padded
    locations take part, with the biases of ``qkv`` as their k and v. A window that holds pieces from opposite ends of
    the map masks the pairs (i, j) from different pieces.

    Shapes: input and output ``(B, dim, H, W)``, H and W at least ``window``; ``qkv.weight`` ``(3·dim, dim)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels.
        heads: number of heads, a divisor of ``dim``.
        window: side w of the windows.
        shift: cyclic shift, one number or (rows, columns), below ``window``; 0 along an axis of one window.
        mask_value: ``-inf`` excludes masked pairs: weight 0 under every activation, and no part in LayerNorm's
            statistics. A finite number below 0 (softmax only) is added to their logits.
        activation: as in :class:`GlobalAttention`.
        qkv_bias: whether ``qkv`` has a bias.
        relative_position: whether there is a bias ``B`` (``relative_position_bias_table``, ``((2w−1)², heads)``).

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows torchvision's ``ShiftedWindowAttention``, except:
        1. Activations other than softmax, from Table 2 of the paper.
        2. It adds −100 to masked logits; by default we exclude the pairs (``mask_value=-100.0`` for its function).
        3. Feature maps are ``(B, C, H, W)``, and one smaller than a window is refused.

    Example:
        >>> attention = WindowAttention(8, 2, window=3, shift=1)
        >>> attention(torch.randn(4, 8, 5, 7)).shape
        torch.Size([4, 8, 5, 7])
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, window, shift, relative_position)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.activation = check_choice("activation", activation, ACTIVATIONS, call)
        self.mask_value = check_mask_value(mask_value, activation, call)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads, factory)

    def _inside(self, x: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
        q, k, v = split_qkv(self.qkv(x), self.heads)
        return self.proj(attend(q, k, v, self.activation, self._bias(), selected, self.mask_value))

    def extra_repr(self) -> str:
        names = ("dim", "heads", "window", "shift", "mask_value", "activation", "qkv_bias", "relative_position")
        return options(self, *names)
