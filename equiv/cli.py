"""The command line: parse, call, print. torch and rich are imported by the commands, when they start to work."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from equiv import __version__
from equiv.errors import message

if TYPE_CHECKING:
    from rich.console import Console

    from equiv.ladder.evidence import Evidence, Verdict
    from equiv.verify import Job

DTYPES = ("float64", "float32", "bfloat16", "float16")  # of equiv.ladder.floating, which imports torch
EXIT = {"EQUAL": 0, "DIFFERENT": 1, "UNKNOWN": 2}
STYLES = {"EQUAL": "green", "DIFFERENT": "bold red", "UNKNOWN": "yellow"}
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception:  # a defect of ours; Python's own exit status would be 1, which says DIFFERENT
            traceback.print_exc()
            ctx.exit(EXIT["UNKNOWN"])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="equiv")
def main() -> None:
    """Do these two PyTorch modules compute the same function? Answers with evidence."""


def _shapes(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    for text in texts:
        if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", text):
            expected = "positive integers joined by x, such as 2x197x384"
            raise click.UsageError(message("--input", text, expected, "equiv verify"), ctx)
    return [tuple(map(int, text.split("x"))) for text in texts]


def _writable(ctx: click.Context, _: click.Parameter, text: str | None) -> str | None:
    """Checked before minutes of work, not after."""
    if text in (None, "-"):
        return text
    path = Path(text).resolve()
    # A file is replaced, for which its directory must be writable; a device or a pipe is written to.
    if path.is_dir() or not os.access(path if _is_special(path) else path.parent, os.W_OK):
        expected = "a file that can be written, in a directory that exists"
        raise click.UsageError(message("--json", text, expected, f"equiv {ctx.info_name}"), ctx)
    return text


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


@main.command(short_help="Compare operators, third-party modules, or your own modules.")
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--against", metavar="PKG.MODULE:CALLABLE", help="Reference for a PAIR of the form pkg.module:callable.")
@click.option(
    "--input", "shapes", metavar="SHAPE", multiple=True, callback=_shapes, help="Shape of an argument. Repeatable."
)
@click.option("--weights", type=click.Choice(("random", "own")), help="Of your own modules.  [default: random]")
@click.option("--dtype", "dtypes", type=click.Choice(DTYPES), multiple=True, help="Repeatable.  [default: all]")
@click.option("--device", "on", type=click.Choice(("cpu", "cuda", "mps")), multiple=True, help="[default: all present]")
@click.option("--forward-only", is_flag=True, help="Compare outputs, not gradients.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of all random draws.  [default: drawn]")
@click.option("--json", "output", metavar="FILE", callback=_writable, help="Also write all evidence; - is stdout.")
@click.option("--quiet", is_flag=True, help="Print only what is not EQUAL, and the summary.")
@click.pass_context
def verify(
    ctx: click.Context,
    pairs: tuple[str, ...],
    against: str | None,
    shapes: list[tuple[int, ...]],
    weights: str | None,
    dtypes: tuple[str, ...],
    on: tuple[str, ...],
    forward_only: bool,
    seed: int | None,
    output: str | None,
    quiet: bool,
) -> None:
    """Compare the two forms of every operator, and third-party modules with ours; or only the PAIRs named.

    \b
    Your own modules, each made by a callable without arguments, one --input for each argument of theirs:
      equiv verify mine:fast --against mine:slow --input 2x197x384

    With random weights (drawn, and shared by name) the two need parameters of the same names and shapes; with own
    weights each keeps those it is made with. The current directory is importable.

    Deviation and tolerance are relative to the size of the float64 result, for the tensor nearest to its tolerance.

    Exit status: 0 all EQUAL, 1 something DIFFERENT, 2 otherwise (UNKNOWN, or wrong usage).
    """
    if against is None and (any(":" in name for name in pairs) or shapes or weights):
        raise click.UsageError("your own modules need PAIR, --against and at least one --input", ctx)
    if against is not None and (len(pairs) != 1 or not shapes):
        raise click.UsageError("--against needs one PAIR of the form pkg.module:callable and at least one --input", ctx)

    from equiv import verify as work
    from equiv.ladder.evidence import worst

    try:
        if against is None:
            chosen = work.subjects(pairs)
        else:
            chosen = [work.user_subject(pairs[0], against, shapes, "own" if weights == "own" else "random")]
        jobs, notes = work.jobs(chosen, dtypes or DTYPES, on or work.devices(), not forward_only)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error

    # Drawn after the programs under test are fixed, so that none of them can know it.
    seed = secrets.randbits(31) if seed is None else seed
    start = time.perf_counter()
    rows = list(_run(jobs, seed, quiet))
    verdict = worst([evidence.verdict for _, evidence in rows])
    if output is not None:
        _write_json(output, _report(rows, seed, verdict))
    console = _console(stderr=output == "-")
    _print_verdicts(console, rows, quiet)
    counts = ", ".join(f"{sum(e.verdict.value == name for _, e in rows)} {name}" for name in EXIT)
    took = time.perf_counter() - start
    for line in (*notes, f"{len(rows)} check{'s' * (len(rows) != 1)}: {counts} ({took:.1f} s, seed {seed})"):
        console.print(line, soft_wrap=True)
    ctx.exit(EXIT[verdict.value])


def _run(jobs: list[Job], seed: int, quiet: bool) -> Iterator[tuple[Job, Evidence]]:
    """Run the jobs, with a progress bar for people who watch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    watched = sys.stderr.isatty() and not quiet
    with Progress(*columns, console=_console(stderr=True), transient=True, disable=not watched) as progress:
        task = progress.add_task("", total=len(jobs))
        for job in jobs:
            progress.update(task, description=f"{job.subject.name} {job.dtype} {job.device}")
            yield job, job.run(seed)
            progress.advance(task)


def _print_verdicts(console: Console, rows: list[tuple[Job, Evidence]], quiet: bool) -> None:
    """The table, then the reason and the command for every row that is not EQUAL."""
    from rich.text import Text

    table = _table("\npair", "\ndtype", "\ndevice", "\nverdict", "largest\ndeviation", "\ntolerance", "\ntime")
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    for column in table.columns[4:]:
        column.justify = "right"
    for job, evidence in rows:
        value, numbers = evidence.verdict.value, evidence.numbers
        deviation, tolerance = (_scientific(numbers.get(name)) for name in ("largest deviation", "tolerance"))
        took = f"{numbers['seconds']:.1f} s" if "seconds" in numbers else "–"
        verdict = Text(value, STYLES[value])
        table.add_row(job.subject.name, job.dtype, job.device, verdict, deviation, tolerance, took)
    if not quiet:
        _print_table(console, table)
    for job, evidence in rows:
        if evidence.reason:
            value = evidence.verdict.value
            title = Text.assemble((value, STYLES[value]), f" {job.subject.name}, {job.dtype} on {job.device}")
            for line in (title, f"  {evidence.reason}", f"  reproduce: {evidence.reproduce}", ""):
                console.print(line, soft_wrap=True)


def _scientific(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def _report(rows: list[tuple[Job, Evidence]], seed: int, verdict: Verdict) -> dict[str, Any]:
    import torch

    keys = [{"subject": job.subject.name, "dtype": job.dtype, "device": job.device} for job, _ in rows]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "seed": seed,
        "verdict": verdict.value,
        "rows": [key | evidence.to_dict() for key, (_, evidence) in zip(keys, rows, strict=True)],
    }


@main.command(short_help="Print a table of the paper, derived from the operators.")
@click.argument("number", metavar="NUMBER")
@click.option(
    "--json", "output", metavar="[FILE]", is_flag=False, flag_value="-", callback=_writable, help="Write JSON instead."
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
        _write_json(output, [dataclasses.asdict(row) for row in rows])
        return
    cells = [[getattr(row, field) for field in tables.COLUMNS] for row in rows]
    titles = list(tables.COLUMNS.values())
    if markdown:
        for line in (titles, ["---"] * len(titles), *cells):
            click.echo(f"| {' | '.join(line)} |")
        return
    console = _console()
    printed = _table(*(title.replace(" ", "\n") for title in titles))
    for index, line in enumerate(cells):
        printed.add_row(*line, end_section=index == len(tables.PAPER) - 1)
    _print_table(console, printed)
    console.print(tables.LEGEND, soft_wrap=True)


# Output


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _table(*titles: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def _print_table(console: Console, table: Any) -> None:
    """Print with nothing cut off: spaced out if there is room, and as wide as it likes if no terminal limits it."""
    natural = console.measure(table, options=console.options.update(max_width=10**4)).maximum
    spacious = natural + len(table.columns) - 1
    console.width = max(console.width, 80) if console.is_terminal else spacious
    if spacious <= console.width:
        table.padding = (0, 1, 0, 0)
    console.print(table)
    console.print()


def _write_json(output: str, data: Any) -> None:
    text = json.dumps(_plain(data), indent=2, allow_nan=False, default=str) + "\n"
    if output == "-":
        click.echo(text, nl=False)
        return
    path = Path(output).resolve()
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """``value`` with numbers that JSON lacks (infinities, NaN) as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
