"""Static 1×1 convolution: the convolution form of a linear layer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.layout import map_to_tokens, tokens_to_map


class Conv1x1(nn.Module):
    """``y[b, o, i] = Σ_c weight[o, c] x[b, c, i] + bias[o]`` at every location i.

    The weight is stored 2-D, so that the state dict is that of ``nn.Linear``; a checkpoint of a real 1×1
    convolution, ``(out, in, 1, 1)``, loads too. Initial values are those of ``nn.Linear`` and ``nn.Conv2d``.

    Shapes: ``weight (out, in)``, ``bias (out,)``; ``x (B, in, H, W)`` gives ``(B, out, H, W)``.

    Example:
        >>> Conv1x1(3, 5)(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 5, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from ±1/√in."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.weight.shape[1] ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if isinstance(weight, torch.Tensor) and weight.dim() == 4 and weight.shape[2:] == (1, 1):
            state_dict[f"{prefix}weight"] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve the feature map ``x (B, in, H, W)``."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class TokenConv1x1(Conv1x1):
    """:class:`Conv1x1` on tokens: the linear layer of a Transformer as a convolution over its N tokens.

    Shapes: ``x (B, N, in)`` gives ``(B, N, out)``, through the feature map ``(B, in, N, 1)``.

    Example:
        >>> TokenConv1x1(3, 5)(torch.zeros(2, 7, 3)).shape
        torch.Size([2, 7, 5])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve the tokens ``x (B, N, in)``."""
        return map_to_tokens(super().forward(tokens_to_map(x, x.shape[1], 1)))
