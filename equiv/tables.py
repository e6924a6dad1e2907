"""Tables 1 to 3 of the paper, derived from our code.

Table 1: every operator is run once and its row is read off its dynamic convolution. Table 2: every row is constructed;
the accuracies are the paper's. Table 3: every row is run and counted, and stands beside the paper's numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from equiv import catalogue
from equiv.catalogue import Case
from equiv.conv import anatomy
from equiv.counting import Counts, count
from equiv.models import CONFIGS, TABLE2, TABLE3, create

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


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A row of Table 2.

    Attributes:
        model: for ``equiv.models.create``.
        activation: along the kernel axis.
        position: ``absolute`` or ``relative``.
        pooling: ``class_token`` or ``average``.
        parameters: of the model, counted.
        accuracy: the paper's top-1 accuracy on ImageNet in percent; not measured by us.
    """

    model: str
    activation: str
    position: str
    pooling: str
    parameters: int
    accuracy: float


def table2() -> list[Accuracy]:
    """The rows of Table 2: each model is built, without memory for its weights.

    Example:
        >>> table2()[3]
        Accuracy(model='deit_small_abs_scaling_relu', activation='scaling_relu', position='absolute',
                 pooling='class_token', parameters=22050664, accuracy=80.03)
    """
    rows = []
    for name, accuracy in TABLE2.items():
        model = create(name, device="meta")
        activation = next(m.activation for m in model.modules() if hasattr(m, "qkv"))
        pooling = getattr(model, "pooling", "average")
        size = sum(parameter.numel() for parameter in model.parameters())
        rows.append(Accuracy(name, str(activation), str(model.position), str(pooling), size, accuracy))
    return rows


@dataclasses.dataclass(frozen=True)
class Cost:
    """A model's counts at 224², beside the paper's.

    Attributes:
        model: for ``equiv.models.create``.
        counts: what was counted.
        paper: the paper's GFLOPs, millions of parameters and of activations, as printed; empty if it has no such row.
    """

    model: str
    counts: Counts
    paper: tuple[str, ...] = ()

    @property
    def printed(self) -> tuple[str, ...]:
        """The counts as the paper prints them: in 10⁹, 10⁶ and 10⁶, three decimals."""
        flops, parameters, activations = dataclasses.astuple(self.counts)
        return f"{flops / 1e9:.3f}", f"{parameters / 1e6:.3f}", f"{activations / 1e6:.3f}"

    @property
    def matches(self) -> tuple[bool, ...]:
        """Which of the three agree with the paper to the printed digits."""
        return tuple(ours == theirs for ours, theirs in zip(self.printed, self.paper, strict=True))


def costs(names: Sequence[str]) -> Iterator[Cost]:
    """Count the matmul form of each model at 3×224×224, as the paper does.

    Example:
        >>> next(costs(["deit_tiny"])).printed
        ('1.258', '5.717', '5.974')
    """
    seen: dict[str, Counts] = {}
    image = torch.zeros(1, 3, 224, 224, device="meta")
    for name in names:
        key = repr(CONFIGS[name])  # several names may mean one model
        if key not in seen:
            seen[key] = count(create(name, device="meta"), image)
        yield Cost(name, seen[key], TABLE3.get(name, ()))
