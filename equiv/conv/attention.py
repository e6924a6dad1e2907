"""Self-attention on all tokens as a dynamic convolution: the paired form, with all kernels or with mixtures of them."""

from __future__ import annotations

import torch
from torch import nn

from equiv.conv.apply import ACTIVATIONS, Lowering, Paired
from equiv.conv.bank import KernelBank
from equiv.conv.base import TokenAttention
from equiv.conv.selection import SelectAll, SelectMixtures
from equiv.errors import check_bool, check_choice, check_grid, check_int, check_mixing

SHARINGS = ("none", "headwise", "key_value", "layerwise")


class GlobalAttention(TokenAttention):
    """Multi-head self-attention (ViT) as a paired dynamic 1×1 convolution over all tokens.

    Location i of head h computes ``y_i = Σ_j φ_j(s q_i·k_j + B_ij) v_j``: a 1×1 convolution with the N kernels
    ``k_j`` (d → N), the activation φ along the kernel axis, and a 1×1 convolution with the kernels ``v_j`` (N → d).
    q, k, v come from one static 1×1 convolution, and a static one (``proj``) follows.

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``; d = D/h.
        activation: φ and s. ``"softmax"`` s = d^-½; ``"none"`` identity, s = 1; ``"scaling"`` identity, s = 1/d;
            ``"scaling_relu"`` ReLU, s = 1/d; ``"layernorm"`` and ``"layernorm_relu"`` normalise over the N kernels
            (eps 1e-5), s = 1.
        qkv_bias: whether q, k, v have a bias.
        relative_position: grid ``(H, W)`` of the tokens for a learned bias B by relative position; ``None``: B = 0.
        class_token: token 0 is a class token; it has no relative position, so its row and column of B are 0.
        lowering: ``"fused"`` (PyTorch's fastest operators) or ``"literal"`` (``F.conv2d`` with generated kernels).
            With softmax, ``"fused"`` is ``scaled_dot_product_attention``, which has no second derivative on some
            devices; ``"literal"`` has.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, N, D)`` gives ``(B, N, D)``; N = H·W (+ 1) with ``relative_position``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: Eqs. 1–3 and Table 2 of "Interpret Vision Transformers as ConvNets with Dynamic Convolutions"
    (arXiv 2309.10713). Choices where the paper is silent:
        1. ``"none"`` and LayerNorm also drop the scale ``d^-½``.
        2. LayerNorm along the kernel axis has no affine parameters: one for each kernel would make the operator
           depend on the order of the tokens.

    Example:
        >>> attention = GlobalAttention(8, 2, activation="scaling_relu", relative_position=(2, 3))
        >>> attention(torch.zeros(1, 6, 8)).shape
        torch.Size([1, 6, 8])
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
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        self.check(call, dim, heads, qkv_bias, lowering)
        check_choice("activation", activation, ACTIVATIONS, call)
        grid = check_grid("relative_position", relative_position, call)
        check_bool("class_token", class_token, call)
        super().__init__(
            dim,
            heads,
            SelectAll(grid, class_token),
            Paired(activation, lowering),
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


class LinformerAttention(TokenAttention):
    """Linformer as a paired dynamic 1×1 convolution with a soft selection: r learned mixtures of the N kernels.

    ``y_i = Σ_m φ_m(s q_i·k'_m) v'_m`` with ``k'_m = Σ_j E[m, j] k_j`` and ``v'_m = Σ_j F[m, j] v_j``: the mixing is a
    static 1×1 convolution N → r whose channel is the kernel index.

    Args:
        dim: channels D.
        heads: heads h, a divisor of ``dim``.
        tokens: N, fixed by the mixing.
        rank: r, the number of mixtures.
        sharing: ``"none"``: E and F for each head; ``"headwise"``: shared by the heads; ``"key_value"``: E = F as well;
            ``"layerwise"``: E = F shared by layers, given as ``mixing`` (a layer without one owns it).
        activation: φ and s, see :class:`GlobalAttention`.
        qkv_bias: whether q, k, v have a bias.
        mixing: E, a parameter ``(rank, tokens)`` of another layer, with ``sharing="layerwise"`` only.
        lowering: see :class:`GlobalAttention`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Parameters E and F are ``mix_key`` and ``mix_value``, ``(rank, tokens)`` or ``(heads, rank, tokens)``.

    Shapes: ``x (B, N, D)`` gives ``(B, N, D)``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity". Differences:
        1. As in the paper, keys and values are mixed after their projection; fairseq mixes the input before it, which
           is another function once the projection has a bias.

    Example:
        >>> LinformerAttention(8, 2, tokens=9, rank=4)(torch.zeros(1, 9, 8)).shape
        torch.Size([1, 9, 8])
    """

    mix_key: nn.Parameter
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
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        self.check(call, dim, heads, qkv_bias, lowering)
        check_int("tokens", tokens, call)
        check_int("rank", rank, call)
        check_choice("sharing", sharing, SHARINGS, call)
        check_choice("activation", activation, ACTIVATIONS, call)
        shape = (heads, rank, tokens) if sharing == "none" else (rank, tokens)
        super().__init__(
            dim,
            heads,
            SelectMixtures(),
            Paired(activation, lowering),
            qkv_bias=qkv_bias,
            table=None,
            device=device,
            dtype=dtype,
        )
        check_mixing(mixing, sharing, (rank, tokens), self.proj.weight, call)
        self.tokens, self.rank, self.sharing, self.activation = tokens, rank, sharing, activation
        self.lowering = lowering

        def draw() -> nn.Parameter:
            return nn.Parameter(nn.init.normal_(torch.empty(shape, device=device, dtype=dtype), std=rank**-0.5))

        self.mix_key = draw() if mixing is None else mixing
        self.mix_value = draw() if sharing in ("none", "headwise") else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the tokens ``x (B, N, D)``."""
        x = self.read_tokens(x, self.tokens)
        q, k, v = self.project(x)
        bank = KernelBank((k, v), (self.tokens, 1))
        mix_value = self.mix_key if self.mix_value is None else self.mix_value
        return self.write_tokens(self.dynamic(q, bank, self.mix_key, mix_value))
