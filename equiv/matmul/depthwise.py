"""Depth-wise self-attention (Eq. 5 of the paper): no values, and a product per channel instead of per head."""

from __future__ import annotations

import torch

from equiv.errors import check_choice, check_factory
from equiv.matmul.attention import TokenOperator
from equiv.matmul.heads import bias_sum, merge_heads, split_heads
from equiv.matmul.modules import Linear, options
from equiv.matmul.window import WindowOperator

BIAS_TABLES = ("head", "channel")
VALUES = ("k", "q", "x")


class DepthwiseAttention(TokenOperator):
    """Depth-wise self-attention over all tokens.

    With ``(q, k) = qk(x)`` of ``dim`` channels each (Eq. 5)::

        y_i = q_i ⊙ mean_j k_j + Σ_j B_ij z_j        output: proj(y)

    Shapes: input and output ``(B, N, D)``, D = ``dim``; ``qk.weight`` ``(2D, D)``: rows q, then k.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels D.
        heads: number of heads, a divisor of ``dim``; it matters to ``bias_table="head"`` only.
        bias_table: whether ``B`` has one bias per head (``relative_position_bias_table``, ``((2H−1)(2W−1), heads)``)
            or one per channel (``((2H−1)(2W−1), D)``).
        values: z, that is ``"k"``, ``"q"`` or ``"x"``, the operator's input.
        qkv_bias: whether ``qk`` has a bias.
        relative_position: grid ``(H, W)`` of the bias ``B``, or ``None``, as in :class:`GlobalAttention`.
        class_token: whether token 0 stands before the grid. It takes part in the mean; no bias term reads or reaches
            it.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows Eq. 5 and Table 3 of the paper ("scaling depth-wise"), which leaves open:
        1. What z is, as the symbol is lost: ``values`` chooses, by default the only bank left.
        2. Whether the mean includes the class token: here it does.

    Example:
        >>> attention = DepthwiseAttention(8, 2, bias_table="channel", relative_position=(2, 3))
        >>> attention(torch.randn(4, 6, 8)).shape
        torch.Size([4, 6, 8])
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, relative_position, class_token)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.bias_table = check_choice("bias_table", bias_table, BIAS_TABLES, call)
        self.values = check_choice("values", values, VALUES, call)
        self.qk = Linear(dim, 2 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads if bias_table == "head" else dim, factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check(x)
        q, k = self.qk(x).chunk(2, -1)
        y = q * k.mean(-2, keepdim=True)
        bias = self._bias()
        if bias is not None:
            z = split_heads({"k": k, "q": q, "x": x}[self.values], len(bias))
            y = y + merge_heads(bias_sum(bias, z, self.class_token))
        return self.proj(y)

    def extra_repr(self) -> str:
        names = ("dim", "heads", "bias_table", "values", "qkv_bias", "relative_position", "class_token")
        return options(self, *names)


class DepthwiseWindowAttention(WindowOperator):
    """Depth-wise self-attention inside shifted windows.

    For location i of one window, with J_i the locations j of that window whose pair (i, j) is not masked, and
    ``(q, k) = qk(x)`` of ``dim`` channels each (Eq. 5)::

        y_i = q_i ⊙ mean_{j ∈ J_i} k_j + Σ_{j ∈ J_i} B_ij z_j        output: proj(y)

    Padding, shift and windows as in :class:`WindowAttention`: padded locations take part, with x = 0 and the bias of
    ``qk`` as their k and q.

    Shapes: input and output ``(B, dim, H, W)``, H and W at least ``window``; ``qk.weight`` ``(2·dim, dim)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels.
        heads: number of heads, a divisor of ``dim``; it matters to ``bias_table="head"`` only.
        window: side w of the windows.
        shift: cyclic shift, one number or (rows, columns), below ``window``; 0 along an axis of one window.
        bias_table: whether ``B`` has one bias per head (``relative_position_bias_table``, ``((2w−1)², heads)``) or
            one per channel (``((2w−1)², dim)``). The paper's counts imply channels for Swin-T, heads for Swin-B.
        values: z, that is ``"k"``, ``"q"`` or ``"x"``, the operator's input.
        qkv_bias: whether ``qk`` has a bias.
        relative_position: whether there is a bias ``B``.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows Eq. 5 and Table 3 of the paper ("Swin, scaling depth-wise"), which leaves open:
        1. What z is, as the symbol is lost: ``values`` chooses, by default the only bank left.

    Example:
        >>> attention = DepthwiseWindowAttention(8, 2, window=3, shift=1, values="x")
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
        bias_table: str = "head",
        values: str = "k",
        qkv_bias: bool = True,
        relative_position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, window, shift, relative_position)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.bias_table = check_choice("bias_table", bias_table, BIAS_TABLES, call)
        self.values = check_choice("values", values, VALUES, call)
        self.qk = Linear(dim, 2 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads if bias_table == "head" else dim, factory)

    def _inside(self, x: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
        q, k = self.qk(x).chunk(2, -1)
        if selected is None:
            y = q * k.mean(-2, keepdim=True)
        else:
            chosen = selected.to(k.dtype)
            y = q * (torch.einsum("wij,bwjc->bwic", chosen, k) / chosen.sum(-1, keepdim=True))
        bias = self._bias()
        if bias is not None:
            z = split_heads({"k": k, "q": q, "x": x}[self.values], len(bias))
            if selected is None:
                y = y + merge_heads(bias_sum(bias, z, class_token=False))
            else:
                y = y + merge_heads(torch.einsum("hij,wij,bwhjd->bwhid", bias, chosen, z))
        return self.proj(y)

    def extra_repr(self) -> str:
        names = ("dim", "heads", "window", "shift", "bias_table", "values", "qkv_bias", "relative_position")
        return options(self, *names)
