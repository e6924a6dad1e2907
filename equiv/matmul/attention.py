"""Global self-attention (ViT, Dosovitskiy et al. 2021), and the frame of all operators on tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from equiv.errors import check_bool, check_choice, check_factory, check_grid, check_tokens
from equiv.matmul.activation import ACTIVATIONS, activate, logit_scale
from equiv.matmul.heads import MultiHead, merge_heads, split_qkv
from equiv.matmul.modules import Linear, options


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    activation: str,
    bias: torch.Tensor | None = None,
    selected: torch.Tensor | None = None,
    mask_value: float = -math.inf,
) -> torch.Tensor:
    """``y_i = Σ_j φ_j(s·q_i·k_j + B_ij) v_j`` for heads ``(..., heads, N, d)``: ``(..., N, heads·d)``.

    ``selected`` of shape ``(windows, N, N)`` says which pairs take part, in every head; the others get weight 0 or,
    with a finite ``mask_value``, that number added to their logits.
    """
    z = (q * logit_scale(activation, q.shape[-1])) @ k.transpose(-2, -1)
    if bias is not None:
        z = z + bias
    if selected is not None:
        selected = selected[:, None]
        if mask_value != -math.inf:
            z, selected = torch.where(selected, z, z + mask_value), None
    return merge_heads(activate(z, activation, selected) @ v)


class TokenOperator(MultiHead):
    """The arguments and checks shared by the operators on all tokens ``(B, N, D)``."""

    def __init__(
        self, dim: int, heads: int, qkv_bias: bool, relative_position: tuple[int, int] | None, class_token: bool
    ) -> None:
        super().__init__(dim, heads, qkv_bias)
        call = type(self).__name__
        self.relative_position = self._grid = check_grid("relative_position", relative_position, call)
        self.class_token = check_bool("class_token", class_token, call)

    def _check(self, x: torch.Tensor) -> None:
        tokens = None if self._grid is None else self._grid[0] * self._grid[1] + self.class_token
        check_tokens(x, self.dim, self, tokens=tokens)


class GlobalAttention(TokenOperator):
    """Multi-head self-attention in which every token attends to every token (Eq. 2).

    Per head of ``d = dim/heads`` channels, with ``(q, k, v) = qkv(x)``::

        z_ij = s·q_i·k_j + B_ij        y_i = Σ_j φ_j(z_i) v_j        output: proj(concat_heads(y))

    ======================  ==========  ========================================
    ``activation``          ``s``       ``φ``, along the kernel (key) axis j
    ======================  ==========  ========================================
    ``"softmax"``           ``1/√d``    softmax
    ``"none"``              1           identity
    ``"scaling"``           ``1/d``     identity
    ``"scaling_relu"``      ``1/d``     ReLU
    ``"layernorm"``         1           ``(z − mean)/√(var + 1e-5)``, no affine
    ``"layernorm_relu"``    1           ReLU after that
    ======================  ==========  ========================================

    Shapes: input and output ``(B, N, D)``, D = ``dim``; ``qkv.weight`` ``(3D, D)``: rows q, k, v, each head after head.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels D.
        heads: number of heads, a divisor of ``dim``.
        activation: a row of the table.
        qkv_bias: whether ``qkv`` has a bias.
        relative_position: grid ``(H, W)`` of the tokens, row by row, for a learned relative position bias ``B``
            (``relative_position_bias_table``, ``((2H−1)(2W−1), heads)``); then N must be H·W. ``None``: B = 0.
        class_token: whether token 0 stands before the grid (N = H·W + 1); it has bias 0 as query and as key. Without
            ``relative_position`` it changes nothing.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows timm's ``Attention`` (ViT) and ``WindowAttention`` (the bias), except:
        1. Activations other than softmax, from Table 2 of the paper.
        2. The table has no entries for the class token, as the paper's parameter counts imply.

    Example:
        >>> attention = GlobalAttention(8, 2, activation="scaling_relu", relative_position=(2, 3))
        >>> attention(torch.randn(4, 6, 8)).shape
        torch.Size([4, 6, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        activation: str = "softmax",
        qkv_bias: bool = True,
        relative_position: tuple[int, int] | None = None,
        class_token: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias, relative_position, class_token)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.activation = check_choice("activation", activation, ACTIVATIONS, call)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        self._add_bias_table(heads, factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check(x)
        bias = self._bias()
        if bias is not None and self.class_token:
            bias = F.pad(bias, (1, 0, 1, 0))
        q, k, v = split_qkv(self.qkv(x), self.heads)
        return self.proj(attend(q, k, v, self.activation, bias))

    def extra_repr(self) -> str:
        return options(self, "dim", "heads", "activation", "qkv_bias", "relative_position", "class_token")
