"""Table 1 of the paper, derived: every operator is run once and its row is read off its dynamic convolution."""

from __future__ import annotations

import dataclasses

import torch

from equiv import catalogue
from equiv.catalogue import Case
from equiv.conv import anatomy

#: Column titles, by the fields of :class:`Row`.
COLUMNS = {
    "method": "",
    "bank": "kernel bank",
    "selection": "kernel selection",
    "type": "kernel type",
    "size": "kernel size",
}
LEGEND = "d: channels of a head, N: tokens, w: window side, k: mixtures, C, C': input, output channels, K: kernel side"

#: What the sizes that occur in the probes below stand for; all are different.
SYMBOLS = {4: "d", 10: "N", 9: "w²", 5: "k", 6: "C", 8: "C'", 7: "K"}

#: (method, operator, where it is run): dim 12 in 3 heads, so d = 4; windows of side 3.
PAPER = (
    ("ViT", "GlobalAttention", Case((1, 10, 12), (12, 3))),
    ("Swin Transformer", "WindowAttention", Case((1, 12, 6, 6), (12, 3), {"window": 3})),
    ("Linformer", "LinformerAttention", Case((1, 10, 12), (12, 3), {"tokens": 10, "rank": 5})),
    ("Dynamic Conv.", "DynamicConv2d", Case((1, 6, 11, 11), (6,), {"out_channels": 8, "kernel_size": 7})),
    ("Dynamic DW-Conv.", "DynamicDepthwiseConv2d", Case((1, 6, 11, 11), (6,), {"variant": "inhomogeneous"})),
)
MORE = (
    ("Linear", "LinearAttention", Case((1, 10, 12), (12, 3))),
    ("Linear, windows", "LinearWindowAttention", Case((1, 12, 6, 6), (12, 3), {"window": 3})),
    ("Depth-wise", "DepthwiseAttention", Case((1, 10, 12), (12, 3))),
    ("Depth-wise, windows", "DepthwiseWindowAttention", Case((1, 12, 6, 6), (12, 3), {"window": 3})),
    ("DW-Conv., per image", "DynamicDepthwiseConv2d", Case((1, 6, 11, 11), (6,), {"variant": "homogeneous"})),
    ("Involution", "Involution2d", Case((1, 6, 11, 11), (6,), {"group_channels": 2})),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 1.

    Attributes:
        method: the name in the paper, or ours.
        operator: the class name in ``equiv.conv``.
        bank: ``Dynamic``, ``Static`` or ``N/A``.
        selection: ``Hard (…)``, ``Soft (…)`` or ``N/A``.
        type: how the kernels act, with the channels along their chain, ``paired d→N→d``.
        size: ``1×1`` or ``K×K``.
    """

    method: str
    operator: str
    bank: str
    selection: str
    type: str
    size: str


def table1() -> list[Row]:
    """The rows of Table 1: those of the paper, then those of our other operators.

    Example:
        >>> table1()[0]
        Row(method='ViT', operator='GlobalAttention', bank='Dynamic', selection='Hard (all)', type='paired d→N→d',
            size='1×1')
    """
    return [_row(*probe) for probe in PAPER + MORE]


def _row(method: str, operator: str, case: Case) -> Row:
    found = anatomy(catalogue.find(operator).build("literal", case), torch.zeros(case.shape))
    channels, size = ([SYMBOLS.get(n, str(n)) for n in sizes] for sizes in (found.channels, found.size))
    kind = f"{found.kind} {'→'.join(channels)}".rstrip()
    return Row(method, operator, found.bank, found.selection, kind, "×".join(size))
