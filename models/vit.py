"""Vision Transformers (ViT, DeiT): patches as tokens, attention over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equiv.errors import check_choice, check_divides, check_int, check_positive, message
from equiv.layout import map_to_tokens
from equiv.models.parts import Form, Mlp, PatchEmbedding, check_image, check_size, initialise, on_vector

#: The attention of every block, by the name of the option, with its operator and its default activation.
ATTENTIONS = {
    "global": ("GlobalAttention", "softmax"),
    "linear": ("LinearAttention", "scaling"),
    "depthwise": ("DepthwiseAttention", None),
}
POSITIONS = ("absolute", "relative")
POOLINGS = ("class_token", "average")


class Block(nn.Module):
    """``x ← x + attn(norm1(x))``, ``x ← x + mlp(norm2(x))`` on tokens ``(B, N, D)``."""

    def __init__(self, form: Form, dim: int, attention: nn.Module, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm1 = form.norm(dim, eps)
        self.attn = attention
        self.norm2 = form.norm(dim, eps)
        self.mlp = Mlp(form, dim, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """ViT and DeiT: patch embedding, class token, positions, L blocks of attention and MLP, LayerNorm, head.

    ::

        x_0 = [class token; patches W + b] + positions
        x ← x + attention(LayerNorm(x));  x ← x + fc2(GELU(fc1(LayerNorm(x))))        L times
        logits = head(pool(LayerNorm(x_L)))

    Args:
        form: ``"matmul"``: every contraction is a matrix product; ``"conv"``: every one is a convolution.
        image_size: side of the images, or (height, width): multiples of ``patch_size``.
        patch_size: P.
        channels: of the images.
        classes: outputs of the head.
        dim: D.
        depth: L.
        heads: heads of each attention.
        mlp_ratio: hidden width of the MLP over D.
        attention: ``"global"``; ``"linear"``: keys and values merge first, for ``activation`` ``"scaling"`` or
            ``"none"``, the same function as ``"global"`` at another cost; ``"depthwise"`` (Eq. 5).
        activation: see :class:`equiv.conv.GlobalAttention`; ``None``: softmax, for linear attention scaling.
            Depth-wise attention has none.
        position: ``"absolute"``: a learned vector for each token; ``"relative"``: a learned bias in each attention,
            none of it for the class token, and no vectors. (With a class token the last block's bias reaches nothing
            that the head reads.)
        pooling: ``"class_token"``: the head reads the class token; ``"average"``: there is none, and the head reads
            the mean of all tokens.
        qkv_bias: whether queries, keys and values have a bias.
        eps: of every LayerNorm. 1e-6 as in the reference and timm; transformers' default is 1e-12.
        lowering: of the conv form's operators; ``None``: ``"literal"``, convolutions alone, in the matmul form nothing.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: images ``(B, C, H, W)`` of ``image_size`` give logits ``(B, classes)``; :meth:`features` gives ``(B, D)``.

    Raises:
        TypeError: an argument or the input has a wrong type or dtype.
        ValueError: an argument or the shape of the input is out of range.

    Source: Dosovitskiy et al. 2021; parameter names are timm's (``vit_*_patch16_224``, ``deit_*``). Differences:
        1. No dropout and no stochastic depth.
        2. With average pooling the norm comes before the mean (timm has it after), over all tokens.
        3. ``position="relative"`` and activations other than softmax follow arXiv 2309.10713, Table 2.

    Example:
        >>> model = VisionTransformer(form="conv", image_size=32, dim=24, depth=2, heads=3, classes=10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    pos_embed: nn.Parameter | None
    cls_token: nn.Parameter | None

    def __init__(
        self,
        *,
        form: str = "matmul",
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        channels: int = 3,
        classes: int = 1000,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str = "global",
        activation: str | None = None,
        position: str = "absolute",
        pooling: str = "class_token",
        qkv_bias: bool = True,
        eps: float = 1e-6,
        lowering: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        self.form = Form.of(form, lowering, call, {"device": device, "dtype": dtype})
        size = check_size(image_size, call)
        for side in size:
            check_divides("patch_size", patch_size, "image_size", side, call)
        self.image_size, self.grid = size, (size[0] // patch_size, size[1] // patch_size)
        self.channels = check_int("channels", channels, call)
        check_choice("attention", attention, self.attentions(), call)
        self.attention, self.activation = attention, activation
        if attention == "depthwise" and activation is not None:
            raise ValueError(message("activation", activation, "None with `attention`='depthwise'", call))
        self.position = check_choice("position", position, POSITIONS, call)
        self.pooling = check_choice("pooling", pooling, POOLINGS, call)
        self.heads, self.qkv_bias = heads, qkv_bias
        self.dim = check_int("dim", dim, call)
        hidden = int(dim * check_positive("mlp_ratio", mlp_ratio, call))

        factory = self.form.factory
        class_token = pooling == "class_token"
        self.tokens = self.grid[0] * self.grid[1] + class_token
        self.patch_embed = PatchEmbedding(self.form, channels, dim, patch_size)
        self.register_parameter("cls_token", nn.Parameter(torch.empty(1, 1, dim, **factory)) if class_token else None)
        vectors = nn.Parameter(torch.empty(1, self.tokens, dim, **factory)) if position == "absolute" else None
        self.register_parameter("pos_embed", vectors)
        self.blocks = nn.ModuleList()
        for made in self.make_attentions(check_int("depth", depth, call)):
            self.blocks.append(Block(self.form, dim, made, hidden, eps))
        self.norm = self.form.norm(dim, eps)
        self.head = self.form.linear(dim, check_int("classes", classes, call))
        initialise(self)
        for vector in (self.cls_token, self.pos_embed):
            if vector is not None:
                nn.init.trunc_normal_(vector, std=0.02)

    @classmethod
    def attentions(cls) -> tuple[str, ...]:
        """What ``attention`` may be."""
        return tuple(ATTENTIONS)

    def make_attentions(self, depth: int) -> list[nn.Module]:
        """The attention of each block."""
        name, default = ATTENTIONS[self.attention]
        options: dict[str, Any] = {
            "qkv_bias": self.qkv_bias,
            "relative_position": self.grid if self.position == "relative" else None,
            "class_token": self.pooling == "class_token",
        }
        if default is not None:
            options["activation"] = self.activation or default
        return [self.form.operator(name, self.dim, self.heads, **options) for _ in range(depth)]

    def residual_blocks(self) -> dict[str, nn.Module]:
        """The blocks by name, in order: their outputs are the residual stream."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: ``(B, D)`` for images ``(B, C, H, W)``."""
        check_image(x, self.channels, self, self.image_size)
        x = map_to_tokens(self.patch_embed(x))
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.cls_token is not None else x.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of images ``(B, C, H, W)``."""
        return on_vector(self.head, self.features(x))
