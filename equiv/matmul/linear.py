"""Attention with a linear activation: keys and values merge into one matrix (Eq. 4, Fig. 5 of the paper)."""

from __future__ import annotations

import torch

from equiv.errors import check_choice, check_factory
from equiv.matmul.activation import LINEAR_ACTIVATIONS, logit_scale
from equiv.matmul.attention import TokenOperator, attend
from equiv.matmul.heads import bias_sum, merge_heads, split_qkv
from equiv.matmul.modules import Linear, options
from equiv.matmul.window import WindowOperator


class LinearAttention(TokenOperator):
    """Attention over all tokens without softmax, in the order that costs ``O(N·d²)`` instead of ``O(N²·d)``.

    Per head of ``d = dim/heads`` channels, with ``(q, k, v) = qkv(x)`` as row vectors (Eq. 4)::

        y_i = s·q_i (Σ_j k_jᵀ v_j) + Σ_j B_ij v_j        output: proj(concat_heads(y))

    with ``s = 1/d`` for ``activation="scaling"`` and 1 for ``"none"``: the function of :class:`GlobalAttention` with
    the same arguments.

    Shapes: input and output ``(B, N, D)``, D = ``dim``; ``qkv.weight`` ``(3D, D)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels D.
        heads: number of heads, a divisor of ``dim``.
        activation: ``"scaling"`` or ``"none"``.
        qkv_bias: whether ``qkv`` has a bias.
        relative_position: grid ``(H, W)`` of the bias ``B``, or ``None``, as in :class:`GlobalAttention`.
        class_token: whether token 0 stands before the grid; no bias term reads or reaches it.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows Eq. 4 and Table 3 of the paper ("DeiT, scaling"), except:
        1. ``"none"`` (s = 1) is allowed too; the paper counts the merged order for scaling only.

    Example:
        >>> attention = LinearAttention(8, 2, relative_position=(2, 3), class_token=True)
        >>> attention(torch.randn(4, 7, 8)).shape
        torch.Size([4, 7, 8])
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, relative_position, class_token)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.activation = check_choice("activation", activation, LINEAR_ACTIVATIONS, call)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads, factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check(x)
        q, k, v = split_qkv(self.qkv(x), self.heads)
        y = (q * logit_scale(self.activation, q.shape[-1])) @ (k.transpose(-2, -1) @ v)
        bias = self._bias()
        if bias is not None:
            y = y + bias_sum(bias, v, self.class_token)
        return self.proj(merge_heads(y))

    def extra_repr(self) -> str:
        return options(self, "dim", "heads", "activation", "qkv_bias", "relative_position", "class_token")


class LinearWindowAttention(WindowOperator):
    """Attention without softmax inside shifted windows.

    For the locations i, j of one window, per head of ``d = dim/heads`` channels, with ``(q, k, v) = qkv(x)``::

        y_i = Σ_j M_ij (s·q_i·k_j + B_ij) v_j        output: proj(concat_heads(y))

    with ``s = 1/d`` for ``activation="scaling"`` and 1 for ``"none"``, and ``M_ij`` 0 for pairs that the shift brought
    together from different ends of the map, else 1. Padding, shift and windows as in :class:`WindowAttention`, whose
    function with the same arguments this is. As the paper's Swin rows imply, keys and values are not merged here:
    under a mask, each query has a sum of its own.

    How ``M`` is multiplied in is the attribute ``masking``, ``"elementwise"`` or ``"einsum"``: the same numbers, but
    tools that count operations count an einsum, and the paper's counts imply one for Swin-B and none for Swin-T.

    Shapes: input and output ``(B, dim, H, W)``, H and W at least ``window``; ``qkv.weight`` ``(3·dim, dim)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels.
        heads: number of heads, a divisor of ``dim``.
        window: side w of the windows.
        shift: cyclic shift, one number or (rows, columns), below ``window``; 0 along an axis of one window.
        activation: ``"scaling"`` or ``"none"``.
        qkv_bias: whether ``qkv`` has a bias.
        relative_position: whether there is a bias ``B`` (``relative_position_bias_table``, ``((2w−1)², heads)``).

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows Table 3 of the paper ("Swin, scaling").

    Example:
        >>> attention = LinearWindowAttention(8, 2, window=3, shift=(1, 0))
        >>> attention(torch.randn(4, 8, 5, 7)).shape
        torch.Size([4, 8, 5, 7])
    """

    masking = "elementwise"

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, window, shift, relative_position)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.activation = check_choice("activation", activation, LINEAR_ACTIVATIONS, call)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads, factory)

    def _inside(self, x: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
        q, k, v = split_qkv(self.qkv(x), self.heads)
        bias = self._bias()
        if self.masking == "elementwise" or selected is None:
            return self.proj(attend(q, k, v, self.activation, bias, selected))
        z = (q * logit_scale(self.activation, q.shape[-1])) @ k.transpose(-2, -1)
        z = z if bias is None else z + bias
        return self.proj(merge_heads(torch.einsum("bwhij,wij->bwhij", z, selected.to(z.dtype)) @ v))

    def extra_repr(self) -> str:
        return options(self, "dim", "heads", "window", "shift", "activation", "qkv_bias", "relative_position")
