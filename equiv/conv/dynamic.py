"""The one abstraction: take kernels from a bank, select some for each location, apply them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from equiv.conv.apply import DepthwiseMean, Merged, Paired
from equiv.conv.bank import Generated, KernelBank
from equiv.conv.selection import KernelSelection, Selected, locate, put_back
from equiv.conv.spatial import ImageKernel, LocationKernels
from equiv.errors import message

Application = Paired | Merged | DepthwiseMean | ImageKernel | LocationKernels


class DynamicConvolution(nn.Module):
    """A dynamic convolution. It has no parameters: its kernels are arguments.

    Attributes:
        selection: which kernels a location uses, see :mod:`equiv.conv.selection`.
        application: how they act, see :mod:`equiv.conv.apply` and :mod:`equiv.conv.spatial`.
    """

    def __init__(self, selection: KernelSelection, application: Application) -> None:
        super().__init__()
        self.selection = selection
        self.application = application

    def forward(self, x: torch.Tensor, bank: KernelBank | Generated, *arguments: torch.Tensor | None) -> torch.Tensor:
        """Apply the kernels that the selection takes from ``bank`` (with its ``arguments``) to ``x``."""
        chosen = self.select(bank, *arguments)
        return put_back([self.application(locate(x, one), one) for one in chosen], chosen)

    def select(self, bank: KernelBank | Generated, *arguments: torch.Tensor | None) -> list[Selected]:
        """The selection step alone."""
        return self.selection(bank, *arguments)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"selection={self.selection}, application={self.application}"


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The four dimensions of Table 1, read off a dynamic convolution at work.

    Attributes:
        bank: ``"Static"``, ``"Dynamic"`` or ``"N/A"``.
        selection: ``"Hard (all)"``, ``"Hard (local window)"``, ``"Soft (…)"`` or ``"N/A"``.
        kind: ``"paired"``, ``"merged"``, ``"dense"``, ``"grouped"`` (depth-wise, shared by the channels of a group) or
            ``"depth-wise"``.
        channels: channel counts along the chain of kernels, such as ``(d, N, d)``; empty for the last two kinds.
        size: spatial size of a kernel.
    """

    bank: str
    selection: str
    kind: str
    channels: tuple[int, ...]
    size: tuple[int, ...]


def anatomy(operator: nn.Module, x: torch.Tensor) -> Anatomy:
    """Run ``operator`` on ``x`` and read bank, selection, kernel type and kernel size off its dynamic convolution.

    Raises:
        TypeError: ``operator`` is no module.
        ValueError: ``operator`` does not run exactly one :class:`DynamicConvolution`.

    Example:
        >>> from equiv import conv
        >>> anatomy(conv.GlobalAttention(8, 2), torch.zeros(1, 9, 8))
        Anatomy(bank='Dynamic', selection='Hard (all)', kind='paired', channels=(4, 9, 4), size=(1, 1))
    """
    if not isinstance(operator, nn.Module):
        raise TypeError(message("operator", operator, "a module", "anatomy"))
    found: list[Anatomy] = []

    def read(module: DynamicConvolution, arguments: tuple[Any, ...]) -> None:
        _, bank, *rest = arguments
        kernels = module.select(bank, *rest)[0].bank
        kind, channels = module.application.kernel_type(kernels)
        size = module.application.kernel_size(kernels)
        found.append(Anatomy(bank.kind, module.selection.kind, kind, channels, size))

    inner = [module for module in operator.modules() if isinstance(module, DynamicConvolution)]
    handles = [module.register_forward_pre_hook(read) for module in inner]
    try:
        operator(x)
    finally:
        for handle in handles:
            handle.remove()
    if len(found) != 1:
        expected = f"a module that runs one dynamic convolution, not {len(found)}"
        raise ValueError(message("operator", type(operator).__name__, expected, "anatomy"))
    return found[0]
