"""``equiv verify``."""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from equiv import __version__
from equiv.cli.output import EXIT, STYLES, new_console, new_table, print_table, writable, write_json
from equiv.cli.proofs import verify_symbolic
from equiv.errors import message

if TYPE_CHECKING:
    from rich.console import Console

    from equiv.ladder.evidence import Evidence, Verdict
    from equiv.verify import Job

RUNGS = ("float", "symbolic")
DTYPES = ("float64", "float32", "bfloat16", "float16")  # of equiv.ladder.floating, which imports torch


def _shapes(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    for text in texts:
        if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", text):
            expected = "positive integers joined by x, such as 2x197x384"
            raise click.UsageError(message("--input", text, expected, "equiv verify"), ctx)
    return [tuple(map(int, text.split("x"))) for text in texts]


def _size(ctx: click.Context, _: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?", text)
    if not found:
        expected = "a positive integer, or two joined by x, such as 200x264"
        raise click.UsageError(message("--image-size", text, expected, "equiv verify"), ctx)
    return int(found[1]), int(found[2] or found[1])


@click.command(short_help="Compare operators, third-party modules, models, or your own modules.")
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--against", metavar="PKG.MODULE:CALLABLE", help="Reference for a PAIR of the form pkg.module:callable.")
@click.option(
    "--input", "shapes", metavar="SHAPE", multiple=True, callback=_shapes, help="Shape of an argument. Repeatable."
)
@click.option(
    "--weights", metavar="random|own|FILE", help="own: of your own modules; FILE: of models.  [default: random]"
)
@click.option(
    "--image",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A picture for models.  [default: the project's own]",
)
@click.option("--image-size", callback=_size, metavar="HxW", help="Of the picture.  [default: 224x224]")
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(DTYPES),
    multiple=True,
    help="Repeatable.  [default: all; for models all but float16]",
)
@click.option("--device", "on", type=click.Choice(("cpu", "cuda", "mps")), multiple=True, help="[default: all present]")
@click.option(
    "--rung", type=click.Choice(RUNGS), default=RUNGS[0], help="symbolic: proofs for all sizes.  [default: float]"
)
@click.option("--forward-only", is_flag=True, help="Compare outputs, not gradients.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of all random draws.  [default: drawn]")
@click.option("--json", "output", metavar="FILE", callback=writable, help="Also write all evidence; - is stdout.")
@click.option("--quiet", is_flag=True, help="Print only what is not EQUAL, and the summary.")
@click.pass_context
def verify(
    ctx: click.Context,
    pairs: tuple[str, ...],
    against: str | None,
    shapes: list[tuple[int, ...]],
    weights: str | None,
    image: str | None,
    image_size: tuple[int, int] | None,
    dtypes: tuple[str, ...],
    on: tuple[str, ...],
    rung: str,
    forward_only: bool,
    seed: int | None,
    output: str | None,
    quiet: bool,
) -> None:
    """Compare the two forms of every operator, and third-party modules with ours; or only the PAIRs named.

    \b
    Models by name (see equiv models), both forms and the libraries that have them:
      equiv verify swin_tiny --image photo.jpg --weights checkpoint.safetensors

    \b
    Your own modules, each made by a callable without arguments, one --input for each argument of theirs:
      equiv verify mine:fast --against mine:slow --input 2x197x384

    With random weights (drawn, and shared by name) the two need parameters of the same names and shapes; with own
    weights each keeps those it is made with. The current directory is importable.

    Deviation and tolerance are relative to the size of the float64 result, for the tensor nearest to its tolerance.

    With --rung symbolic: the identities behind the operators, proved for every size, as in equiv proofs.

    Exit status: 0 all EQUAL, 1 something DIFFERENT, 2 otherwise (UNKNOWN, or wrong usage).
    """
    if rung == "symbolic":
        if against or shapes or weights or image or image_size or dtypes or on or forward_only or seed is not None:
            raise click.UsageError(
                "--rung symbolic takes the names of operators, --json and --quiet, nothing else", ctx
            )
        return verify_symbolic(ctx, pairs, output, quiet)
    if against is None and (any(":" in name for name in pairs) or shapes or weights == "own"):
        raise click.UsageError("your own modules need PAIR, --against and at least one --input", ctx)
    if against is None and weights not in (None, "random", "own") and not os.path.isfile(weights):
        raise click.UsageError(message("--weights", weights, "random, own or a file", "equiv verify"), ctx)
    if against is not None and weights not in (None, "random", "own"):
        raise click.UsageError(message("--weights", weights, "random or own with --against", "equiv verify"), ctx)
    if against is not None and (image or image_size):
        raise click.UsageError("--image and --image-size are for models, not for --against", ctx)
    if against is not None and (len(pairs) != 1 or not shapes):
        raise click.UsageError("--against needs one PAIR of the form pkg.module:callable and at least one --input", ctx)

    from equiv import verify as work
    from equiv.ladder.evidence import worst

    try:
        if against is None:
            checkpoint = None if weights == "random" else weights
            chosen = work.subjects(pairs, image=image, checkpoint=checkpoint, image_size=image_size)
        else:
            chosen = [work.user_subject(pairs[0], against, shapes, "own" if weights == "own" else "random")]
        jobs, notes = work.jobs(chosen, dtypes, on or work.devices(), not forward_only)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error

    # Drawn after the programs under test are fixed, so that none of them can know it.
    seed = secrets.randbits(31) if seed is None else seed
    start = time.perf_counter()
    rows = list(_run(jobs, seed, quiet))
    verdict = worst([evidence.verdict for _, evidence in rows])
    if output is not None:
        write_json(output, _report(rows, seed, verdict))
    console = new_console(stderr=output == "-")
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
    with Progress(*columns, console=new_console(stderr=True), transient=True, disable=not watched) as progress:
        task = progress.add_task("", total=len(jobs))
        for job in jobs:
            progress.update(task, description=f"{job.subject.name} {job.dtype} {job.device}")
            yield job, job.run(seed)
            progress.advance(task)


def _print_verdicts(console: Console, rows: list[tuple[Job, Evidence]], quiet: bool) -> None:
    """The table, then the reason and the command for every row that is not EQUAL."""
    from rich.text import Text

    table = new_table("\npair", "\ndtype", "\ndevice", "\nverdict", "largest\ndeviation", "\ntolerance", "\ntime")
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
        print_table(console, table)
        compared = [
            f"{job.subject.name}: matmul form compared with {'; '.join(evidence.numbers['compared with'])}"
            for job, evidence in rows
            if "compared with" in evidence.numbers
        ]
        for text in dict.fromkeys(compared):
            console.print(text, soft_wrap=True)
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
