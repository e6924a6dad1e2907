"""A Vision Transformer whose attention is Linformer's."""

from __future__ import annotations

from typing import Any

from torch import nn

from equiv.errors import check_int, message
from equiv.models.vit import VisionTransformer


class LinformerVisionTransformer(VisionTransformer):
    """:class:`VisionTransformer` with :class:`equiv.conv.LinformerAttention`: N keys and values mixed into ``rank``.

    Args:
        rank: kernels after mixing.
        sharing: ``"none"``, ``"headwise"``, ``"key_value"``, or ``"layerwise"``: one mixing for all blocks.
        options: those of :class:`VisionTransformer`, but ``attention`` and ``position="relative"``: mixed kernels have
            no position.

    Shapes: as :class:`VisionTransformer`.

    Raises:
        TypeError: an argument or the input has a wrong type or dtype.
        ValueError: an argument or the shape of the input is out of range.

    Source: Wang et al. 2020, "Linformer", on the patches of a ViT; the class token is mixed like any other.

    Example:
        >>> import torch
        >>> model = LinformerVisionTransformer(form="conv", image_size=32, dim=24, depth=2, heads=3, rank=3)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1000])
    """

    def __init__(self, *, rank: int = 64, sharing: str = "headwise", **options: Any) -> None:
        call = type(self).__name__
        if options.get("position", "absolute") != "absolute":
            raise ValueError(message("position", options["position"], "'absolute'", call))
        self.rank, self.sharing = check_int("rank", rank, call), sharing
        super().__init__(attention="linformer", **options)

    @classmethod
    def attentions(cls) -> tuple[str, ...]:
        return ("linformer",)

    def make_attentions(self, depth: int) -> list[nn.Module]:
        found: list[nn.Module] = []
        for _ in range(depth):
            first = found[0].mix_key if found and self.sharing == "layerwise" else None
            made = self.form.operator(
                "LinformerAttention",
                self.dim,
                self.heads,
                tokens=self.tokens,
                rank=self.rank,
                sharing=self.sharing,
                activation=self.activation or "softmax",
                qkv_bias=self.qkv_bias,
                mixing=first,
            )
            found.append(made)
        return found
