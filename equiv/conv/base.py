"""What the attention operators share in convolution form: static convolutions around the dynamic one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.conv.apply import LOWERINGS
from equiv.conv.bank import split_heads
from equiv.conv.dynamic import Application, DynamicConvolution
from equiv.conv.selection import KernelSelection
from equiv.conv.static import Conv1x1
from equiv.errors import check_bool, check_choice, check_divides, check_factory, check_int, check_map, check_tokens
from equiv.layout import map_to_tokens, tokens_to_map


class Attention(nn.Module):
    """static conv → dynamic conv → static conv; subclasses say which dynamic one.

    ``maps`` counts what the first static convolution produces: q, k and v (named ``qkv``), or q and k (``qk``).
    """

    qkv: Conv1x1
    qk: Conv1x1
    relative_position_bias_table: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        heads: int,
        selection: KernelSelection,
        application: Application,
        *,
        qkv_bias: bool,
        table: tuple[int, int, int] | None,
        maps: int = 3,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.maps, self.qkv_bias = dim, heads, maps, qkv_bias
        factory = check_factory(device, dtype, type(self).__name__)
        self.add_module("qkv" if maps == 3 else "qk", Conv1x1(dim, maps * dim, bias=qkv_bias, **factory))
        self.proj = Conv1x1(dim, dim, **factory)
        self.relative_position_bias_table = None
        if table is not None:
            height, width, columns = table
            biases = torch.empty((2 * height - 1) * (2 * width - 1), columns, **factory)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(biases, std=0.02))
        self.dynamic = DynamicConvolution(selection, application)

    @staticmethod
    def check(call: str, dim: Any, heads: Any, qkv_bias: Any, lowering: Any) -> None:
        """Check the arguments that every attention operator takes."""
        check_int("dim", dim, call)
        check_divides("heads", heads, "dim", dim, call)
        check_bool("qkv_bias", qkv_bias, call)
        check_choice("lowering", lowering, LOWERINGS, call)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys (and values), each ``(B, 1, h, d, H*W)``, of the feature map ``x (B, D, H, W)``."""
        static = self.qkv if self.maps == 3 else self.qk
        return split_heads(static(x), self.maps, self.heads)

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, qkv_bias={self.qkv_bias}"


class TokenAttention(Attention):
    """Attention on tokens ``(B, N, D)``, treated as the feature map ``(B, D, N, 1)``."""

    relative_position: tuple[int, int] | None = None
    class_token: bool = False

    def read_tokens(self, x: torch.Tensor, tokens: int | None = None) -> torch.Tensor:
        """Check the tokens ``x`` and view them as a feature map."""
        if self.relative_position is not None:
            tokens = self.relative_position[0] * self.relative_position[1] + self.class_token
        check_tokens(x, self.dim, self, tokens=tokens)
        return tokens_to_map(x, x.shape[1], 1)

    def write_tokens(self, y: torch.Tensor) -> torch.Tensor:
        """Heads ``(B, 1, h, d, N)`` side by side, projected, as tokens."""
        return map_to_tokens(self.proj(y.reshape(y.shape[0], self.dim, -1, 1)))


class WindowedAttention(Attention):
    """Attention in windows of a feature map ``(B, D, H, W)``, zero-padded to whole windows as Swin does."""

    window: int

    def read_map(self, x: torch.Tensor) -> torch.Tensor:
        """Check the feature map ``x`` and pad it at the bottom and on the right."""
        check_map(x, self.dim, self, minimum=self.window)
        height, width = x.shape[2:]
        return F.pad(x, (0, -width % self.window, 0, -height % self.window))

    def write_map(self, y: torch.Tensor, padded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Heads ``(B, 1, h, d, N)`` side by side, cropped to ``x``, projected."""
        y = y.reshape(padded.shape)[:, :, : x.shape[2], : x.shape[3]]
        return self.proj(y)
