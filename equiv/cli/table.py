"""``equiv table``."""

from __future__ import annotations

import dataclasses

import click

from equiv.cli.output import new_console, new_table, print_table, writable, write_json
from equiv.errors import message


@click.command(short_help="Print a table of the paper, derived from the operators.")
@click.argument("number", metavar="NUMBER")
@click.option(
    "--json", "output", metavar="[FILE]", is_flag=False, flag_value="-", callback=writable, help="Write JSON instead."
)
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.pass_context
def table(ctx: click.Context, number: str, output: str | None, markdown: bool) -> None:
    """Print table NUMBER of the paper, derived from the operators; ours follow the paper's rows.

    Table 1: kernel bank, selection, type and size of every operator, read off it at work. Put NUMBER before a --json
    without FILE, which means standard output.
    """
    if number != "1":
        expected = "1; tables 2 and 3 need models, which this version does not have"
        raise click.UsageError(message("NUMBER", number, expected, "equiv table"), ctx)
    if output is not None and markdown:
        raise click.UsageError("--json and --markdown exclude each other", ctx)

    from equiv import tables

    rows = tables.table1()
    if output is not None:
        write_json(output, [dataclasses.asdict(row) for row in rows])
        return
    cells = [[getattr(row, field) for field in tables.COLUMNS] for row in rows]
    titles = list(tables.COLUMNS.values())
    if markdown:
        for line in (titles, ["---"] * len(titles), *cells):
            click.echo(f"| {' | '.join(line)} |")
        return
    console = new_console()
    printed = new_table(*(title.replace(" ", "\n") for title in titles))
    for index, line in enumerate(cells):
        printed.add_row(*line, end_section=index == len(tables.PAPER) - 1)
    print_table(console, printed)
    console.print(tables.LEGEND, soft_wrap=True)
