"""D-Conv: a dense K×K kernel mixed from a static bank with coefficients predicted from the image."""

from __future__ import annotations

import math

import torch
from torch import nn

from equiv.conv.apply import LOWERINGS, Lowering
from equiv.conv.bank import KernelBank
from equiv.conv.dynamic import DynamicConvolution
from equiv.conv.selection import SelectRouted
from equiv.conv.spatial import ImageKernel
from equiv.conv.static import Conv1x1
from equiv.errors import (
    check_bool,
    check_choice,
    check_divides,
    check_factory,
    check_int,
    check_map,
    check_odd,
    check_positive,
)


class DynamicConv2d(nn.Module):
    """Dynamic convolution (D-Conv): one mixture of the bank's kernels for each image.

    ``y = W(x) * x + b(x)`` with ``W(x) = Σ_m π_m(x) W_m``, ``b(x) = Σ_m π_m(x) b_m`` and
    ``π(x) = softmax(fc2(ReLU(fc1(GAP x))) / τ)``, GAP the mean over locations.

    Args:
        channels: C, input channels.
        out_channels: C', output channels; ``None``: C.
        kernel_size: K.
        stride: stride of the convolution.
        padding: zeros added on each side; ``None``: ``dilation·(K−1)/2``, which keeps the size at stride 1 (K odd).
        dilation: dilation of the convolution.
        groups: groups of channels, a divisor of C and C'.
        kernels: M, kernels in the bank.
        reduction: ``fc1`` has max(C // reduction, 1) outputs.
        temperature: τ > 0, an attribute to be lowered during training (30 to 1 over ten epochs in the source); it is
            not part of the state dict.
        bias: whether the kernels have biases.
        lowering: ``"literal"`` mixes the kernels by a 1×1 convolution, ``"fused"`` by one matrix product.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shapes: ``x (B, C, H, W)`` gives ``(B, C', H', W')``; the bank ``weight`` is ``(M, C', C/groups, K, K)``.

    Raises:
        TypeError: an argument or ``x`` has a wrong type or dtype.
        ValueError: an argument or the shape of ``x`` is out of range.

    Source: Chen et al. 2020, "Dynamic Convolution: Attention over Convolution Kernels".

    Example:
        >>> DynamicConv2d(4, out_channels=6, stride=2)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        kernels: int = 4,
        reduction: int = 4,
        temperature: float = 30.0,
        bias: bool = True,
        lowering: Lowering = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        call = type(self).__name__
        for name, value in {
            "channels": channels,
            "out_channels": channels if out_channels is None else out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "kernels": kernels,
            "reduction": reduction,
        }.items():
            check_int(name, value, call)
        out_channels = channels if out_channels is None else out_channels
        check_divides("groups", groups, "channels", channels, call)
        check_divides("groups", groups, "out_channels", out_channels, call)
        if padding is None:
            padding = dilation * (check_odd("kernel_size", kernel_size, call) - 1) // 2
        check_int("padding", padding, call, minimum=0)
        check_positive("temperature", temperature, call)
        check_bool("bias", bias, call)
        check_choice("lowering", lowering, LOWERINGS, call)
        super().__init__()
        self.channels, self.out_channels, self.kernel_size, self.stride = channels, out_channels, kernel_size, stride
        self.padding, self.dilation, self.groups, self.kernels = padding, dilation, groups, kernels
        self.reduction, self.temperature, self.lowering = reduction, temperature, lowering
        factory = check_factory(device, dtype, call)
        shape = (kernels, out_channels, channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        self.bias = nn.Parameter(torch.empty(kernels, out_channels, **factory)) if bias else None
        self.reset_parameters()
        hidden = max(channels // reduction, 1)
        self.fc1 = Conv1x1(channels, hidden, **factory)
        self.fc2 = Conv1x1(hidden, kernels, **factory)
        self.dynamic = DynamicConvolution(SelectRouted(lowering), ImageKernel(groups, stride, padding, dilation))

    def reset_parameters(self) -> None:
        """Draw each kernel of the bank as ``nn.Conv2d`` draws its one."""
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.weight[0, 0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve ``x (B, C, H, W)``, each image with its own mixture."""
        call = type(self).__name__
        reach = self.dilation * (self.kernel_size - 1) + 1 - 2 * self.padding
        check_map(x, self.channels, self, minimum=max(reach, 1))
        temperature = check_positive("temperature", self.temperature, call)
        z = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        coefficients = (z.flatten(1) / temperature).softmax(1)
        bank = KernelBank((self.weight,) if self.bias is None else (self.weight, self.bias))
        return self.dynamic(x, bank, coefficients)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, out_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, kernels={self.kernels}, temperature={self.temperature}"
        )
