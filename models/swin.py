"""Swin Transformers: a pyramid of feature maps, attention inside shifted windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.errors import check_choice, check_int, check_positive, message
from equiv.models.parts import (
    Form,
    Mlp,
    PatchEmbedding,
    check_image,
    check_size,
    initialise,
    on_channels,
    on_tokens,
    on_vector,
)

#: The attention of every block, by the name of the option, with its operator and its default activation.
ATTENTIONS = {
    "window": ("WindowAttention", "softmax"),
    "linear": ("LinearWindowAttention", "scaling"),
    "depthwise": ("DepthwiseWindowAttention", None),
}
POSITIONS = ("relative", "absolute")
MASKINGS = ("elementwise", "einsum")


class Block(nn.Module):
    """``x ← x + attn(norm1(x))``, ``x ← x + mlp(norm2(x))`` on maps ``(B, C, H, W)``."""

    def __init__(self, form: Form, dim: int, attention: nn.Module, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm1 = form.norm(dim, eps)
        self.attn = attention
        self.norm2 = form.norm(dim, eps)
        self.mlp = Mlp(form, dim, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(on_channels(self.norm1, x))
        return x + on_tokens(self.mlp, on_channels(self.norm2, x))


class PatchMerging(nn.Module):
    """Each 2×2 locations become one: their 4C channels, normalised, through a linear map to 2C without bias.

    The four are taken column by column, as in Swin. Maps are zero-padded to even sizes.

    Shapes: ``x (B, C, H, W)`` gives ``(B, 2C, ⌈H/2⌉, ⌈W/2⌉)``.
    """

    def __init__(self, form: Form, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = form.norm(4 * dim, eps)
        self.reduction = form.linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        x = torch.cat([x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)
        return on_tokens(self.reduction, on_channels(self.norm, x))


class Stage(nn.Module):
    """Patch merging (but in the first stage), then blocks that are shifted in turn."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class SwinTransformer(nn.Module):
    """Swin: patch embedding, stages of blocks of window attention and MLP with merging between them, LayerNorm, head.

    ::

        x ← x + attention(LayerNorm(x));  x ← x + fc2(GELU(fc1(LayerNorm(x))))        in every block
        logits = head(mean(LayerNorm(x)))

    The windows of every second block are shifted.

    Args:
        form: ``"matmul"``: every contraction is a matrix product; ``"conv"``: every one is a convolution.
        image_size: side of the images, or (height, width); it matters to ``position="absolute"`` only, which ties the
            model to it. Other images are padded to whole patches, maps to whole windows.
        patch_size: P.
        channels: of the images.
        classes: outputs of the head.
        dim: channels of the first stage; each stage doubles them.
        depths: blocks of each stage.
        heads: heads of the attention in each stage.
        window: side of the windows.
        shifts: how far every second block of each stage is shifted; ``None``: ``window // 2``. (An axis of one window
            is never shifted; transformers and the reference do not shift the other one either then.)
        mlp_ratio: hidden width of the MLP over the channels.
        attention: ``"window"``; ``"linear"``, for ``activation`` ``"scaling"`` or ``"none"``, the same function as
            ``"window"``; ``"depthwise"`` (Eq. 5).
        activation: see :class:`equiv.conv.GlobalAttention`; ``None``: softmax, for linear attention scaling.
            Depth-wise attention has none.
        position: ``"relative"``: a learned bias in each attention; ``"absolute"``: a learned vector for each patch.
        mask_value: of softmax attention in shifted windows, see :class:`equiv.conv.WindowAttention`: −∞ excludes;
            published code adds −100, which is another function, though rounding hides it on most inputs.
        masking: of linear attention in the matmul form, see :class:`equiv.matmul.LinearWindowAttention`; the conv form
            masks nothing and ignores it.
        bias_table: of depth-wise attention, ``"head"`` or ``"channel"``.
        qkv_bias: whether queries, keys and values have a bias.
        eps: of every LayerNorm.
        lowering: of the conv form's operators; ``None``: ``"literal"``, convolutions alone, in the matmul form nothing.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: images ``(B, C, H, W)`` give logits ``(B, classes)``; :meth:`features` gives ``(B, 8·dim)`` with four
    stages. Every stage's map must hold a window: H and W at least ``P · 2^(stages − 1) · (window − 1) + 1``.

    Raises:
        TypeError: an argument or the input has a wrong type or dtype.
        ValueError: an argument or the shape of the input is out of range.

    Source: Liu et al. 2021; parameter names are timm's (``swin_*_patch4_window7_224``). Differences:
        1. No dropout and no stochastic depth.
        2. Maps are ``(B, C, H, W)`` between blocks.
        3. An axis of one window is not shifted, the other one is, as in torchvision and timm.
        4. ``mask_value`` defaults to −∞, the exact exclusion.

    Example:
        >>> model = SwinTransformer(form="conv", dim=12, depths=(2, 2), heads=(2, 4), window=4, classes=10)
        >>> model(torch.zeros(2, 3, 36, 50)).shape
        torch.Size([2, 10])
    """

    absolute_pos_embed: nn.Parameter | None

    def __init__(
        self,
        *,
        form: str = "matmul",
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        channels: int = 3,
        classes: int = 1000,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        shifts: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        attention: str = "window",
        activation: str | None = None,
        position: str = "relative",
        mask_value: float = float("-inf"),
        masking: str = "elementwise",
        bias_table: str = "head",
        qkv_bias: bool = True,
        eps: float = 1e-5,
        lowering: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        self.form = Form.of(form, lowering, call, {"device": device, "dtype": dtype})
        check_int("patch_size", patch_size, call)
        self.channels = check_int("channels", channels, call)
        self.position = check_choice("position", position, POSITIONS, call)
        self.image_size = check_size(image_size, call) if position == "absolute" else None
        check_choice("attention", attention, ATTENTIONS, call)
        operator, default = ATTENTIONS[attention]
        if default is None and activation is not None:
            raise ValueError(message("activation", activation, f"None with `attention`={attention!r}", call))
        options: dict[str, Any] = {"window": window, "qkv_bias": qkv_bias}
        options["relative_position"] = position == "relative"
        options |= {} if default is None else {"activation": activation or default}
        options |= self._only("window", attention, "mask_value", mask_value, float("-inf"), call)
        options |= self._only("depthwise", attention, "bias_table", bias_table, "head", call)
        self._only("linear", attention, "masking", check_choice("masking", masking, MASKINGS, call), MASKINGS[0], call)
        if len(depths) != len(heads) or not depths:
            raise ValueError(message("heads", heads, f"one number for each stage of `depths`={depths}", call))
        shifts = [window // 2] * len(depths) if shifts is None else shifts
        if len(shifts) != len(depths):
            raise ValueError(message("shifts", shifts, f"one number for each stage of `depths`={depths}", call))
        check_int("dim", dim, call)
        check_positive("mlp_ratio", mlp_ratio, call)

        self.patch_embed = PatchEmbedding(self.form, channels, dim, patch_size, eps)
        vectors = None
        if self.image_size is not None:
            grid = [-(-side // patch_size) for side in self.image_size]
            vectors = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim, **self.form.factory))
        self.register_parameter("absolute_pos_embed", vectors)
        self.layers = nn.ModuleList()
        for index, (depth, count, shift) in enumerate(zip(depths, heads, shifts, strict=True)):
            downsample = nn.Identity() if index == 0 else PatchMerging(self.form, dim, eps)
            dim = dim if index == 0 else 2 * dim
            blocks = []
            for number in range(check_int("depths", depth, call)):
                made = self.form.operator(operator, dim, count, shift=shift * (number % 2), **options)
                if self.form.name == "matmul" and attention == "linear":
                    made.masking = masking
                blocks.append(Block(self.form, dim, made, int(dim * mlp_ratio), eps))
            self.layers.append(Stage(downsample, blocks))
        self.norm = self.form.norm(dim, eps)
        self.head = nn.ModuleDict({"fc": self.form.linear(dim, check_int("classes", classes, call))})
        initialise(self)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    @staticmethod
    def _only(kind: str, attention: str, name: str, value: Any, default: Any, call: str) -> dict[str, Any]:
        """An option that one kind of attention has; elsewhere it must be left alone."""
        if attention == kind:
            return {name: value}
        if value != default:
            raise ValueError(message(name, value, f"{default!r} with `attention`={attention!r}", call))
        return {}

    def residual_blocks(self) -> dict[str, nn.Module]:
        """The blocks by name, in order: their outputs are the residual stream."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: the mean of the last map, ``(B, channels)``, for images ``(B, C, H, W)``."""
        check_image(x, self.channels, self, self.image_size)
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            x = x + self.absolute_pos_embed.transpose(1, 2).unflatten(2, x.shape[2:])
        for stage in self.layers:
            x = stage(x)
        return F.adaptive_avg_pool2d(on_channels(self.norm, x), 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of images ``(B, C, H, W)``."""
        return on_vector(self.head["fc"], self.features(x))
