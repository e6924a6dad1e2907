"""Tokens ``(B, N, C)`` <-> feature map ``(B, C, H, W)``, and nothing else: views, no arithmetic."""

from __future__ import annotations

import torch


def tokens_to_map(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """View tokens ``(B, H*W, C)``, row by row, as a feature map ``(B, C, H, W)``.

    Example:
        >>> tokens_to_map(torch.zeros(2, 6, 8), 2, 3).shape
        torch.Size([2, 8, 2, 3])
    """
    batch, _, channels = x.shape
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def map_to_tokens(x: torch.Tensor) -> torch.Tensor:
    """View a feature map ``(B, C, H, W)`` as tokens ``(B, H*W, C)``, row by row.

    Example:
        >>> map_to_tokens(torch.zeros(2, 8, 2, 3)).shape
        torch.Size([2, 6, 8])
    """
    return x.flatten(2).transpose(1, 2)
