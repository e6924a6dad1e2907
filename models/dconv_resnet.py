"""ResNets whose convolutions, but the first, are dynamic: each image mixes its kernels from learned banks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv import conv, matmul
from equiv.errors import check_batch_statistics, check_choice, check_int, check_positive, message
from equiv.models.parts import Form, check_image, on_vector

#: Of each kind of block: kernel sizes, which of its convolutions has the stride, and outputs over inner channels.
BLOCKS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "basic": ((3, 3), 0, 1),
    "bottleneck": ((1, 3, 1), 1, 4),
}


class Block(nn.Module):
    """``ReLU(x + u)`` with u = BN(conv(… ReLU(BN(conv(x))))) on maps; a strided 1×1–BN shortcut where sizes change."""

    def __init__(self, form: Form, kind: str, inputs: int, width: int, stride: int, options: dict[str, Any]) -> None:
        super().__init__()
        sizes, strided, expansion = BLOCKS[kind]
        outputs = width * expansion
        self.depth = len(sizes)
        channels = inputs
        for number, size in enumerate(sizes):
            wanted = width if number < self.depth - 1 else outputs
            step = stride if number == strided else 1
            made = form.operator(
                "DynamicConv2d", channels, out_channels=wanted, kernel_size=size, stride=step, bias=False, **options
            )
            self.add_module(f"conv{number + 1}", made)
            self.add_module(f"bn{number + 1}", form.batch_norm(wanted))
            channels = wanted
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            made = form.operator(
                "DynamicConv2d", inputs, out_channels=outputs, kernel_size=1, stride=stride, bias=False, **options
            )
            self.downsample = nn.Sequential(made, form.batch_norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x
        for number in range(1, self.depth + 1):
            u = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(u))
            u = u.relu() if number < self.depth else u
        return (self.downsample(x) + u).relu()


class DConvResNet(nn.Module):
    """ResNet with D-Conv: a static 7×7 stem, stages of residual blocks of dynamic convolutions, mean, static head.

    ::

        x ← maxpool(ReLU(BN(conv1(x))))
        x ← ReLU(shortcut(x) + BN(D-Conv(ReLU(BN(D-Conv(x))))))                 in every block (three in a bottleneck)
        logits = fc(mean(x))

    **Every convolution but the first is a D-Conv**, :class:`equiv.conv.DynamicConv2d`: the 3×3 ones, the 1×1 ones of
    bottlenecks, and the strided 1×1 of shortcuts; none has a bias, as BatchNorm follows.

    Args:
        form: ``"matmul"``: every contraction is a matrix product; ``"conv"``: every one is a convolution.
        channels: of the images.
        classes: outputs of the head.
        block: ``"basic"``: two 3×3; ``"bottleneck"``: 1×1, 3×3 (which has the stride), 1×1 to four times the channels.
        depths: blocks of each stage.
        width: inner channels of the blocks of the first stage, and outputs of the stem; each stage doubles them.
        kernels: kernels in each bank.
        reduction: input channels of a convolution over the hidden width of its routing.
        temperature: τ of every routing; see :attr:`temperature`.
        lowering: of the conv form's operators; ``None``: ``"literal"``, convolutions alone, in the matmul form nothing.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: images ``(B, C, H, W)`` of any size give logits ``(B, classes)``; :meth:`features` gives
    ``(B, 8·width)`` with four stages of basic blocks, ``(B, 32·width)`` of bottlenecks.

    Raises:
        TypeError: an argument or the input has a wrong type or dtype.
        ValueError: an argument or the shape of the input is out of range.

    Source: He et al. 2016 with Chen et al. 2020, "Dynamic Convolution: Attention over Convolution Kernels".
    Parameter names are torchvision's (``resnet18``, ``resnet50``), with a bank ``weight (M, C', C, K, K)``, ``fc1`` and
    ``fc2`` in the place of each kernel. Differences:
        1. As in torchvision, a bottleneck's stride is in its 3×3 convolution; He et al. have it in the first 1×1.
        2. Routing has biases in both layers and max(C // reduction, 1) hidden channels; reimplementations of Chen et
           al., who published no code, differ among each other in that.
        3. The head is static; there is no dropout.

    Example:
        >>> model = DConvResNet(form="conv", depths=(1, 1), width=8, classes=10)
        >>> model.temperature = 1.0
        >>> model(torch.zeros(2, 3, 33, 50)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        form: str = "matmul",
        channels: int = 3,
        classes: int = 1000,
        block: str = "basic",
        depths: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        kernels: int = 4,
        reduction: int = 4,
        temperature: float = 30.0,
        lowering: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        self.form = Form.of(form, lowering, call, {"device": device, "dtype": dtype})
        self.channels = check_int("channels", channels, call)
        check_int("classes", classes, call)
        check_choice("block", block, BLOCKS, call)
        check_int("width", width, call)
        check_positive("temperature", temperature, call)
        if not depths:
            raise ValueError(message("depths", depths, "a number for each of one or more stages", call))
        options = {
            "kernels": check_int("kernels", kernels, call),
            "reduction": check_int("reduction", reduction, call),
            "temperature": temperature,
        }

        self.conv1 = self.form.conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = self.form.batch_norm(width)
        self.stages = len(depths)
        inputs = width
        for index, depth in enumerate(depths):
            blocks = []
            for number in range(check_int("depths", depth, call)):
                stride = 2 if index > 0 and number == 0 else 1
                blocks.append(Block(self.form, block, inputs, width << index, stride, options))
                inputs = (width << index) * BLOCKS[block][2]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = self.form.linear(inputs, classes)
        # Each kernel as torchvision draws its one: normal with σ² = 2/fan-out. The bounds ±2 are beyond 10σ;
        # ``normal_`` would take seconds on the meta device.
        for layer in (self.conv1, *self._dynamic()):
            weight = layer.get_parameter("weight")
            nn.init.trunc_normal_(weight, std=(2 / (weight.shape[-4] * weight.shape[-1] ** 2)) ** 0.5)

    def _dynamic(self) -> list[conv.DynamicConv2d | matmul.DynamicConv2d]:
        """The dynamic convolutions."""
        return [module for module in self.modules() if isinstance(module, conv.DynamicConv2d | matmul.DynamicConv2d)]

    @property
    def temperature(self) -> float:
        """τ of every routing softmax, to be lowered in training: Chen et al. go from 30 to 1 in the first ten epochs.

        It is not in the state dict.

        Raises:
            TypeError: it is set to something that is no number.
            ValueError: it is set to a number that is not positive and finite; or it is read where layers have
                different ones.
        """
        found = {operator.temperature for operator in self._dynamic()}
        if len(found) != 1:
            raise ValueError(message("temperature", sorted(found), "the same in all layers", type(self).__name__))
        value: float = found.pop()
        return value

    @temperature.setter
    def temperature(self, value: float) -> None:
        checked = check_positive("temperature", value, type(self).__name__)
        for operator in self._dynamic():
            operator.temperature = checked

    def residual_blocks(self) -> dict[str, nn.Module]:
        """The blocks by name, in order: their outputs are the residual stream."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: the mean of the last map, ``(B, channels)``, for images ``(B, C, H, W)``."""
        check_image(x, self.channels, self)
        step = 2 << self.stages  # of the last map: stem and pooling halve, and every stage but the first
        check_batch_statistics(x, len(x) * -(-x.shape[2] // step) * -(-x.shape[3] // step), self, type(self).__name__)
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of images ``(B, C, H, W)``."""
        return on_vector(self.fc, self.features(x))
