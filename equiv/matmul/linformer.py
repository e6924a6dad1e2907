"""Linformer (Wang et al. 2020): attention over a learned mixture of keys and values."""

from __future__ import annotations

import torch
from torch import nn

from equiv.errors import check_choice, check_factory, check_int, check_mixing, check_tokens
from equiv.matmul.activation import ACTIVATIONS
from equiv.matmul.attention import attend
from equiv.matmul.heads import MultiHead, split_qkv
from equiv.matmul.modules import Linear, options

SHARINGS = ("none", "headwise", "key_value", "layerwise")


class LinformerAttention(MultiHead):
    """Multi-head self-attention whose N keys and values are mixed into ``rank`` of them.

    Per head of ``d = dim/heads`` channels, with ``(q, k, v) = qkv(x)`` and learned ``E, F`` of shape (rank, N)::

        k' = E k    v' = F v    z_im = s·q_i·k'_m    y_i = Σ_m φ_m(z_i) v'_m        output: proj(concat_heads(y))

    with ``s`` and ``φ`` as in :class:`GlobalAttention`, along the ``rank`` mixed kernels.

    ================  =============================  =======================================
    ``sharing``       ``mix_key`` (E)                ``mix_value`` (F)
    ================  =============================  =======================================
    ``"none"``        ``(heads, rank, tokens)``      ``(heads, rank, tokens)``
    ``"headwise"``    ``(rank, tokens)``             ``(rank, tokens)``
    ``"key_value"``   ``(rank, tokens)``             absent: F = E
    ``"layerwise"``   ``(rank, tokens)``             absent: F = E, shared between layers
    ================  =============================  =======================================

    Shapes: input and output ``(B, tokens, dim)``; ``qkv.weight`` ``(3·dim, dim)``.
    Dtype: any floating dtype, that of the parameters (free under autocast).

    Args:
        dim: channels.
        heads: number of heads, a divisor of ``dim``.
        tokens: number N of tokens, fixed by the mixing.
        rank: number of mixed kernels.
        sharing: a row of the table.
        activation: as in :class:`GlobalAttention`.
        qkv_bias: whether ``qkv`` has a bias.
        mixing: the parameter E of another layer, to share it; only with ``sharing="layerwise"``. It becomes
            ``mix_key``.

    Raises:
        TypeError, ValueError: on arguments, and inputs to forward, other than these; the message names the argument.

    Follows the Linformer paper, except:
        1. fairseq mixes the input before it projects to keys and values, so its biases are not mixed; we project
           first, as the formula has it.
        2. Activations other than softmax, from Table 2 of the paper.

    Example:
        >>> first = LinformerAttention(8, 2, tokens=6, rank=3, sharing="layerwise")
        >>> second = LinformerAttention(8, 2, tokens=6, rank=3, sharing="layerwise", mixing=first.mix_key)
        >>> second(first(torch.randn(4, 6, 8))).shape
        torch.Size([4, 6, 8])
    """

    mix_value: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        tokens: int,
        rank: int,
        sharing: str = "headwise",
        activation: str = "softmax",
        qkv_bias: bool = True,
        mixing: nn.Parameter | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, qkv_bias)
        call = type(self).__name__
        factory = check_factory(device, dtype, call)
        self.tokens = check_int("tokens", tokens, call)
        self.rank = check_int("rank", rank, call)
        self.sharing = check_choice("sharing", sharing, SHARINGS, call)
        self.activation = check_choice("activation", activation, ACTIVATIONS, call)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = Linear(dim, dim, **factory)
        check_mixing(mixing, sharing, (rank, tokens), self.proj.weight, call)
        shape = (heads, rank, tokens) if sharing == "none" else (rank, tokens)

        def mixture() -> nn.Parameter:
            return nn.Parameter(nn.init.normal_(torch.empty(shape, **factory), std=rank**-0.5))

        self.mix_key = mixing if mixing is not None else mixture()
        self.register_parameter("mix_value", mixture() if sharing in ("none", "headwise") else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_tokens(x, self.dim, self, tokens=self.tokens)
        q, k, v = split_qkv(self.qkv(x), self.heads)
        mix_value = self.mix_key if self.mix_value is None else self.mix_value
        return self.proj(attend(q, self.mix_key @ k, mix_value @ v, self.activation))

    def extra_repr(self) -> str:
        return options(self, "dim", "heads", "tokens", "rank", "sharing", "activation", "qkv_bias")
