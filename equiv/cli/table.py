"""``equiv table`` and ``equiv models``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from equiv.cli.output import new_console, new_table, print_table, track, writable, write_json
from equiv.errors import message

if TYPE_CHECKING:
    from equiv.tables import Cost

QUANTITIES = ("flops", "parameters", "activations")
OUTPUT = click.option(
    "--json", "output", metavar="[FILE]", is_flag=False, flag_value="-", callback=writable, help="Write JSON instead."
)
MARKDOWN = click.option("--markdown", is_flag=True, help="Print Markdown.")


@click.command(short_help="Print a table of the paper, derived from our code.")
@click.argument("number", metavar="NUMBER")
@OUTPUT
@MARKDOWN
@click.pass_context
def table(ctx: click.Context, number: str, output: str | None, markdown: bool) -> None:
    """Print table NUMBER of the paper, derived from our code.

    \b
    1  kernel bank, selection, type and size of every operator, read off it at work; ours follow the paper's
    2  the models of the paper, each constructed; the accuracies are the paper's, not ours
    3  operations, parameters and activations of 15 models, counted while they run, beside the paper's

    Put NUMBER before a --json without FILE, which means standard output.
    """
    printers = {"1": _table1, "2": _table2, "3": _table3}
    if number not in printers:
        raise click.UsageError(message("NUMBER", number, "1, 2 or 3", "equiv table"), ctx)
    _check_output(ctx, output, markdown)
    try:
        printers[number](output, markdown)
    except ImportError as error:
        raise click.ClickException(str(error)) from error


@click.command(short_help="List the models, with their costs.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@OUTPUT
@MARKDOWN
@click.pass_context
def models(ctx: click.Context, names: tuple[str, ...], output: str | None, markdown: bool) -> None:
    """List the models that equiv.models.create makes, or only the NAMEs, with parameters, GFLOPs and activations.

    All three are counted at 3×224×224 as in `equiv table 3`: without running the head, whose parameters count.
    """
    _check_output(ctx, output, markdown)
    from equiv import tables
    from equiv.models import CONFIGS
    from equiv.models.configs import nearest

    for name in names:
        if name not in CONFIGS:
            raise click.UsageError(message("NAME", name, nearest(name, CONFIGS), "equiv models"), ctx)
    chosen = names or tuple(CONFIGS)
    try:
        rows = list(track(tables.costs(chosen), len(chosen), "counting"))
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    titles = ["model", "family", "GFLOPs", "MParams", "MActs"]
    families = [CONFIGS[row.model].family.__name__ for row in rows]
    cells = [[row.model, family, *row.printed] for row, family in zip(rows, families, strict=True)]
    data = [{"model": row.model} | dataclasses.asdict(row.counts) for row in rows]
    _show(titles, cells, data, output, markdown, right=range(2, 5))


def _table1(output: str | None, markdown: bool) -> None:
    from equiv import tables

    rows = tables.table1()
    cells = [[getattr(row, field) for field in tables.COLUMNS] for row in rows]
    data = [dataclasses.asdict(row) for row in rows]
    sections = [len(tables.PAPER) - 1]
    _show(list(tables.COLUMNS.values()), cells, data, output, markdown, notes=[tables.LEGEND], sections=sections)


def _table2(output: str | None, markdown: bool) -> None:
    from equiv import tables

    rows = tables.table2()
    titles = ["model", "activation", "position", "pooling", "MParams", "paper's top-1"]
    cells = [
        [
            row.model,
            row.activation,
            row.position,
            row.pooling.replace("_", " "),
            f"{row.parameters / 1e6:.3f}",
            f"{row.accuracy:.2f}",
        ]
        for row in rows
    ]
    note = "paper's top-1: accuracy on ImageNet in percent as the paper reports it; no model was trained for this table"
    data = [dataclasses.asdict(row) for row in rows]
    _show(titles, cells, data, output, markdown, notes=[note], right=range(4, 6), sections=[9])


def _table3(output: str | None, markdown: bool) -> None:
    from equiv import tables
    from equiv.models import TABLE3

    rows = list(track(tables.costs(list(TABLE3)), len(TABLE3), "counting"))
    titles = ["model", "GFLOPs", "paper", "", "MParams", "paper", "", "MActs", "paper", ""]
    cells = [
        [row.model, *(cell for one in zip(row.printed, row.paper, row.matches, strict=True) for cell in _beside(*one))]
        for row in rows
    ]
    matches = sum(sum(row.matches) for row in rows)
    notes = [f"{matches} of {sum(len(row.matches) for row in rows)} numbers match the paper to the printed digits"]
    for row in rows:
        for quantity, ours, theirs, match in zip(titles[1::3], row.printed, row.paper, row.matches, strict=True):
            if not match:
                notes.append(f"difference: {row.model} has {ours} {quantity}, the paper prints {theirs}")
    _show(titles, cells, _costs(rows), output, markdown, notes=notes, right=range(1, 10), sections=[8])


def _beside(ours: str, theirs: str, match: bool) -> tuple[str, str, str]:
    return ours, theirs, "=" if match else "≠"


def _costs(rows: Iterable[Cost]) -> list[dict[str, Any]]:
    return [
        {"model": row.model}
        | dataclasses.asdict(row.counts)
        | {"printed": dict(zip(QUANTITIES, row.printed, strict=True))}
        | {"paper": dict(zip(QUANTITIES, row.paper, strict=True))}
        | {"match": dict(zip(QUANTITIES, row.matches, strict=True))}
        for row in rows
    ]


def _check_output(ctx: click.Context, output: str | None, markdown: bool) -> None:
    if output is not None and markdown:
        raise click.UsageError("--json and --markdown exclude each other", ctx)


def _show(
    titles: Sequence[str],
    cells: Sequence[Sequence[str]],
    data: Any,
    output: str | None,
    markdown: bool,
    *,
    notes: Sequence[str] = (),
    right: Iterable[int] = (),
    sections: Sequence[int] = (),
) -> None:
    """Print a table on the terminal or as Markdown, or write ``data`` as JSON.

    Args:
        notes: lines below the table.
        right: the columns of numbers.
        sections: rows after which a line is drawn.
    """
    if output is not None:
        write_json(output, data)
    elif markdown:
        rules = ["---:" if index in right else "---" for index in range(len(titles))]
        for line in (titles, rules, *cells):
            click.echo(f"| {' | '.join(line)} |")
        for note in notes:
            click.echo(f"\n{note}")
    else:
        console = new_console()
        printed = new_table(*(title.replace(" ", "\n") for title in titles))
        for index in right:
            printed.columns[index].justify = "right"
        for index, line in enumerate(cells):
            printed.add_row(*line, end_section=index in sections)
        print_table(console, printed)
        for note in notes:
            console.print(note, soft_wrap=True)
