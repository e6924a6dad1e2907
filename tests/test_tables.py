"""Table 1 is the paper's, and it is true of the operators."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from equiv import catalogue, cli, conv, tables
from equiv.catalogue import Case
from equiv.conv.apply import Merged
from equiv.conv.selection import SelectAll

# As printed, but for channels and sizes, which the extraction of the text lost; those are from its sections 2 and 3.
PAPER = {
    "ViT": ("Dynamic", "Hard (all)", "paired d→N→d", "1×1"),
    "Swin Transformer": ("Dynamic", "Hard (local)", "paired d→w²→d", "1×1"),
    "Linformer": ("Dynamic", "Soft", "paired d→k→d", "1×1"),
    "Dynamic Conv.": ("Static", "Soft", "dense C→C'", "K×K"),
    "Dynamic DW-Conv.": ("N/A", "N/A", "Depth-wise", "K×K"),
}
ROWS = {row.method: row for row in tables.table1()}


def test_first_rows_are_those_of_the_paper() -> None:
    assert list(ROWS)[: len(PAPER)] == list(PAPER)
    for method, (bank, selection, kind, size) in PAPER.items():
        row = ROWS[method]
        assert (row.bank, row.type.lower(), row.size) == (bank, kind.lower(), size)
        # Ours adds how the selection is soft, and that the locality is a window.
        assert row.selection.startswith(selection.rstrip(")"))
        assert row.selection.split()[0] == selection.split()[0]


def test_every_operator_of_the_catalogue_has_a_row() -> None:
    assert {row.operator for row in ROWS.values()} == {pair.name for pair in catalogue.PAIRS}
    assert len(ROWS) == len(tables.PAPER + tables.MORE)


def test_sizes_of_the_probes_tell_the_symbols_apart() -> None:
    sizes = {size for row in ROWS.values() for size in row.type.split()[-1].split("→") + row.size.split("×")}
    assert not {size for size in sizes if size.isdigit()} - {"1"}
    assert len(set(tables.SYMBOLS.values())) == len(tables.SYMBOLS)


# The table follows the objects


class SeesAll(conv.WindowAttention):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.dynamic.selection = SelectAll()


class MergesKernels(conv.GlobalAttention):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.dynamic.application = Merged("none", "literal")


class GeneratesItsBank(conv.DynamicConv2d):
    def forward(self, x):
        coefficients = torch.full((len(x), self.kernels), 0.25)
        return self.dynamic(x, conv.KernelBank((self.weight * x.mean(),)), coefficients)


class HasSmallKernels(conv.Involution2d):
    def __init__(self, *args, **options):
        super().__init__(*args, **options | {"kernel_size": 3})


class TakesFewerTokens(conv.LinformerAttention):
    def __init__(self, *args, **options):
        super().__init__(*args, **options | {"rank": 2})


@pytest.mark.parametrize(
    ("changed", "method", "field", "value"),
    [
        (SeesAll, "Swin Transformer", "selection", "Hard (all)"),
        (SeesAll, "Swin Transformer", "type", "paired d→36→d"),
        (MergesKernels, "ViT", "type", "merged d→d"),
        (GeneratesItsBank, "Dynamic Conv.", "bank", "Dynamic"),
        (HasSmallKernels, "Involution", "size", "3×3"),
        (TakesFewerTokens, "Linformer", "type", "paired d→2→d"),
    ],
)
def test_row_follows_a_changed_operator(
    monkeypatch: pytest.MonkeyPatch, changed: type[nn.Module], method: str, field: str, value: str
) -> None:
    assert getattr(ROWS[method], field) != value
    monkeypatch.setattr(conv, changed.__mro__[1].__name__, changed)
    rows = {row.method: row for row in tables.table1()}
    assert getattr(rows[method], field) == value
    assert [row for row in rows.values() if row.operator != rows[method].operator] == [
        row for row in ROWS.values() if row.operator != rows[method].operator
    ]


# The words are true by measurement


def bank_and_selected(operator: nn.Module, x: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
    """The kernels in the bank, and for each set of locations the first kernel of a pair."""
    found = []

    def read(module, arguments):
        bank, *rest = arguments[1:]
        found.append((bank.kernels, [one.bank.kernels[0] for one in module.select(bank, *rest)]))

    (dynamic,) = (module for module in operator.modules() if isinstance(module, conv.DynamicConvolution))
    handle = dynamic.register_forward_pre_hook(read)
    operator(x)
    handle.remove()
    (one,) = found
    return one


@pytest.mark.parametrize(("method", "name", "case"), tables.PAPER + tables.MORE)
@torch.no_grad()
def test_bank_and_selection_are_what_the_table_says(method: str, name: str, case: Case) -> None:
    torch.manual_seed(0)
    operator = catalogue.find(name).build("literal", case)
    first, second = torch.randn(2, *case.shape)
    bank, selected = bank_and_selected(operator, first)
    other, _ = bank_and_selected(operator, second)
    row = ROWS[method]

    # Static: parameters, the same for every input. Dynamic and generated: other kernels for another input.
    same = [torch.equal(left, right) for left, right in zip(bank, other, strict=True)]
    parameters = [any(kernel is parameter for parameter in operator.parameters()) for kernel in bank]
    if row.bank == "Static":
        assert all(same)
        assert all(parameters)
    else:
        assert not same[0]
        assert not parameters[0]

    # Kernels as rows: of the bank, and of what was selected for each location.
    if row.bank == "N/A":
        # Generated kernels are used where they were generated: there is nothing to choose from.
        assert row.selection == "N/A"
        assert len(selected) == 1
        assert torch.equal(selected[0], bank[0])
        return
    if row.bank == "Static":
        kernels, chosen = bank[0].flatten(1), torch.cat([one.flatten(1) for one in selected])
        per_location = len(chosen) // case.shape[0]
    else:
        kernels = bank[0].flatten(0, 2).transpose(1, 2).flatten(0, 1)
        chosen = torch.cat([one.flatten(0, 2).transpose(1, 2).flatten(0, 1) for one in selected])
        per_location = selected[0].shape[-1]
    count = bank[0].shape[-1] if row.bank == "Dynamic" else len(bank[0])
    from_bank = (chosen[:, None] == kernels).all(-1).any(1)
    if row.selection.startswith("Hard"):
        assert from_bank.all()
        assert per_location == (count if row.selection == "Hard (all)" else 9)
        assert (per_location == count) == (row.selection == "Hard (all)")
    else:
        assert row.selection.startswith("Soft")
        assert not from_bank.any()
        # Mixtures: they lie in the span of the bank's kernels.
        if row.bank == "Static":
            basis = torch.linalg.lstsq(kernels.T, chosen.T)
            assert torch.allclose(kernels.T @ basis.solution, chosen.T, atol=1e-5)


def test_local_selection_takes_kernels_of_the_window_only() -> None:
    """A kernel that was generated outside a location's window never serves it."""
    operator = conv.WindowAttention(12, 3, window=3, lowering="literal")
    bank = conv.KernelBank((torch.arange(36.0).reshape(1, 1, 1, 1, 36),) * 2, (6, 6))
    (chosen,) = operator.dynamic.select(bank)
    kernels, locations = chosen.bank.kernels[0][0, :, 0, 0].long(), chosen.locations
    assert locations is not None
    for window, places in zip(kernels, locations, strict=True):
        corners = {(int(i) // 6 // 3, int(i) % 6 // 3) for i in torch.cat((window, places))}
        assert len(corners) == 1
    assert sorted(locations.flatten().tolist()) == list(range(36))


# equiv table


def equiv(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, prog_name="equiv", catch_exceptions=False)


def test_table_1() -> None:
    lines = equiv("table", "1").stdout.splitlines()
    for row in tables.table1():
        cells = [re.escape(getattr(row, field)) for field in tables.COLUMNS]
        assert sum(bool(re.fullmatch(" +".join(cells) + " *", line)) for line in lines) == 1
    assert lines[-1] == tables.LEGEND


def test_table_1_as_markdown_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = equiv("table", "1", "--markdown").stdout.splitlines()
    assert lines[:3] == [
        "|  | kernel bank | kernel selection | kernel type | kernel size |",
        "| --- | --- | --- | --- | --- |",
        "| ViT | Dynamic | Hard (all) | paired d→N→d | 1×1 |",
    ]
    assert len(lines) == 2 + len(tables.table1()) + 2
    assert lines[-2:] == ["", tables.LEGEND]
    printed = json.loads(equiv("table", "1", "--json").stdout)
    assert [tables.Row(**row) for row in printed] == tables.table1()
    assert equiv("table", "1", "--json", "table.json").stdout == ""
    assert json.loads(Path("table.json").read_text(encoding="utf-8")) == printed
