"""DW-Net: Swin's pyramid with dynamic depth-wise convolutions where Swin has window attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.errors import check_batch_statistics, check_choice, check_int, check_odd, check_positive, message
from equiv.models.parts import (
    Form,
    Mlp,
    PatchEmbedding,
    check_image,
    initialise,
    on_channels,
    on_tokens,
    on_vector,
)
from equiv.models.swin import PatchMerging

VARIANTS = ("homogeneous", "inhomogeneous")


class DepthwiseUnit(nn.Module):
    """1×1–BN–ReLU, dynamic depth-wise K×K–BN–ReLU, 1×1–BN on maps ``(B, C, H, W)``; the 1×1 have no bias."""

    def __init__(self, form: Form, dim: int, dynamic: nn.Module) -> None:
        super().__init__()
        self.conv0 = form.conv2d(dim, dim, 1, bias=False)
        self.bn0 = form.batch_norm(dim)
        self.conv = dynamic
        self.bn = form.batch_norm(dim)
        self.conv2 = form.conv2d(dim, dim, 1, bias=False)
        self.bn2 = form.batch_norm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(self.conv0(x)).relu()
        x = self.bn(self.conv(x)).relu()
        y: torch.Tensor = self.bn2(self.conv2(x))
        return y


class Block(nn.Module):
    """``x ← x + attn2conv(x)``, ``x ← x + mlp(bn(x))`` on maps ``(B, C, H, W)``."""

    def __init__(self, form: Form, dim: int, dynamic: nn.Module, hidden: int) -> None:
        super().__init__()
        self.attn2conv = DepthwiseUnit(form, dim, dynamic)
        self.mlp = Mlp(form, dim, hidden)
        self.bn = form.batch_norm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn2conv(x)
        return x + on_tokens(self.mlp, self.bn(x))


class Stage(nn.Module):
    """Blocks, then (but in the last stage) patch merging."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.downsample(x)
        return y


class DWNet(nn.Module):
    """DW-Net: patch embedding, stages of D-DW-Conv units and MLPs with merging between them, LayerNorm, head.

    ::

        u ← ReLU(BN(conv1×1(x)));  u ← ReLU(BN(D-DW-Conv(u)));  x ← x + BN(conv1×1(u))        in every block
        x ← x + fc2(GELU(fc1(BN(x))))
        logits = head(mean(LayerNorm(x)))

    Args:
        form: ``"matmul"``: every contraction is a matrix product; ``"conv"``: every one is a convolution.
        patch_size: P.
        channels: of the images.
        classes: outputs of the head.
        dim: channels of the first stage; each stage doubles them.
        depths: blocks of each stage.
        kernel_size: K of the dynamic convolutions, odd.
        variant: ``"homogeneous"``: a kernel for each channel of each image, generated from the mean of the map, and a
            learned bias; ``"inhomogeneous"``: a kernel for each location and group of channels, and no bias. See
            :class:`equiv.conv.DynamicDepthwiseConv2d`.
        group_channels: channels that share a kernel in each stage, inhomogeneous only; ``None``: 1.
        reduction: channels over the hidden width of the kernels' generator.
        mlp_ratio: hidden width of the MLP over the channels.
        eps: of every LayerNorm; BatchNorm has PyTorch's 1e-5 and momentum 0.1.
        lowering: of the conv form's operators; ``None``: ``"literal"``, convolutions alone, in the matmul form nothing.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: images ``(B, C, H, W)`` of any size give logits ``(B, classes)``; :meth:`features` gives ``(B, 8·dim)``
    with four stages. In training mode the homogeneous variant needs B > 1, for the BatchNorm of its generator.

    Raises:
        TypeError: an argument or the input has a wrong type or dtype.
        ValueError: an argument or the shape of the input is out of range.

    Source: Han et al. 2022, "On the Connection between Local Attention and Dynamic Depth-wise Convolution"
    (``Atten4Vis/DemystifyLocalViT``, ``models/dwnet.py``), whose parameter names we keep. Differences:
        1. Its HEAD puts a static convolution in the place of the homogeneous dynamic one, a bug (an ``if`` that should
           be an ``elif``; the first commit had it right). Ours is dynamic, as the paper says.
        2. The configurations' ``INHOMO_HEADS`` (3, 6, 12, 24), (4, 8, 16, 32) are named heads and used as channels of
           a group, so that every stage has 32 groups. We do as the code does, and call them ``group_channels``.
        3. The inhomogeneous generator's first 1×1 convolution has no bias: the BatchNorm after it would remove it; and
           its layers are ``conv1``, ``bn``, ``conv2``, not ``conv1.0``, ``conv1.1``, ``conv2.0``.
        4. Any image size: images are padded to whole patches, maps to even sizes; there, other sizes are refused.
        5. No dropout, no stochastic depth, no absolute positions.
        6. Maps are ``(B, C, H, W)`` between blocks.

    Sizes, homogeneous: 51.1 million parameters and 3.8 GFLOPs (tiny), as the reference's README says; 161.6 million and
    12.9 GFLOPs (base), where it says 162 million and 13.0. That is fvcore's count of the conv form; the element-wise
    products of the matmul form's dynamic convolution are none of its FLOPs.

    Example:
        >>> model = DWNet(form="conv", dim=8, depths=(1, 2), kernel_size=3, classes=10)
        >>> model(torch.zeros(2, 3, 36, 50)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        form: str = "matmul",
        patch_size: int = 4,
        channels: int = 3,
        classes: int = 1000,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        kernel_size: int = 7,
        variant: str = "homogeneous",
        group_channels: Sequence[int] | None = None,
        reduction: int = 4,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        lowering: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        self.form = Form.of(form, lowering, call, {"device": device, "dtype": dtype})
        self.patch_size = check_int("patch_size", patch_size, call)
        self.channels = check_int("channels", channels, call)
        check_int("classes", classes, call)
        check_int("dim", dim, call)
        check_odd("kernel_size", kernel_size, call)
        check_int("reduction", reduction, call)
        check_positive("mlp_ratio", mlp_ratio, call)
        self.variant = check_choice("variant", variant, VARIANTS, call)
        if not depths:
            raise ValueError(message("depths", depths, "a number for each of one or more stages", call))
        if group_channels is not None and variant == "homogeneous":
            raise ValueError(message("group_channels", group_channels, f"None with `variant`={variant!r}", call))
        groups = [None] * len(depths) if group_channels is None else group_channels
        if len(groups) != len(depths):
            raise ValueError(message("group_channels", groups, f"one number for each stage of `depths`={depths}", call))
        options: dict[str, Any] = {"kernel_size": kernel_size, "variant": variant, "reduction": reduction}
        options["bias"] = variant == "homogeneous"

        self.patch_embed = PatchEmbedding(self.form, channels, dim, patch_size, eps)
        self.layers = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(depths, groups, strict=True)):
            blocks = []
            for _ in range(check_int("depths", depth, call)):
                made = self.form.operator("DynamicDepthwiseConv2d", dim, group_channels=width, **options)
                blocks.append(Block(self.form, dim, made, int(dim * mlp_ratio)))
            last = index == len(depths) - 1
            self.layers.append(Stage(blocks, nn.Identity() if last else PatchMerging(self.form, dim, eps)))
            dim = dim if last else 2 * dim
        self.norm = self.form.norm(dim, eps)
        self.head = self.form.linear(dim, classes)
        for part in self.modules():  # as there: linear layers, but no convolution, not even a 1×1
            if isinstance(part, Mlp | PatchMerging) or part is self.head:
                initialise(part)

    def residual_blocks(self) -> dict[str, nn.Module]:
        """The blocks by name, in order: their outputs are the residual stream."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: the mean of the last map, ``(B, channels)``, for images ``(B, C, H, W)``."""
        check_image(x, self.channels, self)
        step = self.patch_size << len(self.layers) - 1
        check_batch_statistics(x, len(x) * -(-x.shape[2] // step) * -(-x.shape[3] // step), self, type(self).__name__)
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return F.adaptive_avg_pool2d(on_channels(self.norm, x), 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of images ``(B, C, H, W)``."""
        return on_vector(self.head, self.features(x))
