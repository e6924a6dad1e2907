"""``equiv train``: parity of the two forms in training, and convergence of the activations."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from equiv import __version__
from equiv.cli.output import EXIT, STYLES, new_console, new_table, print_table, progress, writable, write_json
from equiv.errors import message

if TYPE_CHECKING:
    from equiv.convergence import Spread
    from equiv.training import Parity

MODELS = ("deit", "swin")  # of equiv.training, which imports torch
FORMATS = (".png", ".svg")


def _picture(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and Path(text).suffix not in FORMATS:
        expected = f"a file ending in {' or '.join(FORMATS)}"
        raise click.UsageError(message("--plot", text, expected, ctx.command_path), ctx)
    return writable(ctx, parameter, text)


MODEL = click.option("--model", "models", type=click.Choice(MODELS), multiple=True, help="Repeatable.  [default: all]")
STEPS = click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Of AdamW.")
OUTPUT = click.option("--json", "output", metavar="FILE", callback=writable, help="Also write all data; - is stdout.")
PLOT = click.option("--plot", metavar="FILE", callback=_picture, help="Also draw the curves, as .png or .svg.")


@click.group(short_help="Train small models: both forms alike; activations side by side.")
def train() -> None:
    """Train a small DeiT and a small Swin on the 8×8 digits that ship inside scikit-learn."""


@train.command(short_help="Train both forms alike and compare their losses.")
@MODEL
@STEPS
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and order.")
@OUTPUT
@PLOT
@click.pass_context
def parity(
    ctx: click.Context, models: tuple[str, ...], steps: int, seed: int, output: str | None, plot: str | None
) -> None:
    """Train the matmul form and both lowerings of the conv form alike, in float64, and compare their losses.

    They share the initial weights, the order of the images and AdamW. EQUAL: at no step are two losses further apart
    than 1e-9. How far weights and test logits are apart after training is shown beside it.

    Exit status: 0 all EQUAL, 1 something DIFFERENT, 2 otherwise (UNKNOWN, or wrong usage).
    """
    from rich.text import Text

    from equiv import training
    from equiv.ladder.evidence import worst

    chosen = tuple(dict.fromkeys(models)) or MODELS
    start = time.perf_counter()
    _check_installed(plot)
    runs: list[Parity] = []
    with progress(len(chosen) * len(training.FORMS) * steps, "loading the digits") as advance:
        for model in chosen:
            runs.append(training.parity(training.Recipe(model, steps, seed=seed), on_step=advance))
    verdict = worst([run.evidence.verdict for run in runs])
    if output is not None:
        data = {
            "verdict": verdict.value,
            "evidence": [run.evidence.to_dict() for run in runs],
            "losses": {run.recipe.model: {name: form.losses for name, form in run.forms.items()} for run in runs},
        }
        write_json(output, _environment() | data)
    _draw(runs, plot)
    console = new_console(stderr=output == "-")
    titles = ("\nmodel", "\nform", "\nverdict", "\nloss", "test\nlogits", "key\nbiases", "other\nweights", "\ntime")
    table = new_table(*titles)
    for column in table.columns[3:]:
        column.justify = "right"
    for run in runs:
        for name, part in zip(
            [name for name in run.forms if name != training.REFERENCE], run.evidence.parts, strict=True
        ):
            value, numbers = part.verdict.value, part.numbers
            cells = [f"{numbers[name]:.1e}" for name in DEVIATIONS]
            table.add_row(
                run.recipe.model, name, Text(value, STYLES[value]), *cells, f"{run.forms[name].seconds:.1f} s"
            )
    print_table(console, table)
    for run in runs:
        for part in run.evidence.parts:
            if part.reason:
                console.print(f"{part.verdict.value}: {part.claim}\n  {part.reason}\n", soft_wrap=True)
        numbers = run.evidence.parts[0].numbers
        console.print(
            f"{run.recipe.model}: loss {numbers['first loss']:.3f} to {numbers['last loss']:.3f}, "
            f"{100 * numbers['test accuracy']:.1f} % of the test images right",
            soft_wrap=True,
        )
    took = time.perf_counter() - start
    console.print(
        "loss: largest deviation from the matmul form at any step; logits, biases, weights: after the last",
        soft_wrap=True,
    )
    console.print(
        f"{verdict.value}: {steps} steps, losses may deviate by {training.TOLERANCE:g} ({took:.1f} s, seed {seed})",
        soft_wrap=True,
    )
    ctx.exit(EXIT[verdict.value])


@train.command(short_help="Train with four activations and compare how fast they learn.")
@MODEL
@STEPS
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each: seeds 0, 1, ….")
@OUTPUT
@PLOT
def convergence(models: tuple[str, ...], steps: int, seeds: int, output: str | None, plot: str | None) -> None:
    """Train with softmax, scaling, scaling+ReLU and LayerNorm+ReLU, in float32, and compare how fast they learn.

    A seed gives all activations the same initial weights and the same order of images. There is no verdict: the table
    has mean, least and greatest over the seeds, and in how many of them an activation did better than softmax.
    """
    from equiv import convergence as work

    chosen = tuple(dict.fromkeys(models)) or MODELS
    start = time.perf_counter()
    _check_installed(plot)
    curves = []
    recipes = work.recipes(chosen, steps, seeds)
    with progress(len(recipes) * steps, "loading the digits") as advance:
        for recipe in recipes:
            curves.append(work.converge(recipe, on_step=advance))
    rows = work.summarise(curves)
    took = time.perf_counter() - start
    if output is not None:
        data = {
            "seconds": round(took, 1),
            "recipe": {name: getattr(recipes[0], name) for name in SHARED},
            "summary": [dataclasses.asdict(row) for row in rows],
            "curves": [dataclasses.asdict(curve) for curve in curves],
        }
        write_json(output, _environment() | data)
    _draw(curves, plot)
    titles = ("\nmodel", "\nactivation", "loss over\nthe run", "below\nsoftmax", "\ntest accuracy %", "above\nsoftmax")
    table = new_table(*titles)
    for column in table.columns[2:]:
        column.justify = "right"
    for index, row in enumerate(rows):
        last = index + 1 < len(rows) and rows[index + 1].model != row.model
        cells = [_spread(row.run_loss, 3), _of(row.faster, row.seeds)]
        cells += [_spread(row.accuracy, 1, 100), _of(row.better, row.seeds)]
        table.add_row(row.model, work.ACTIVATIONS[row.activation], *cells, end_section=last)
    console = new_console(stderr=output == "-")
    print_table(console, table)
    note = (
        f"mean (least–greatest) of {seeds} seed{'s' * (seeds != 1)}, {steps} steps of 32 images; below, above: in how "
    )
    console.print(f"{note}many seeds ({took:.1f} s)", soft_wrap=True)


DEVIATIONS = (
    "largest deviation",
    "deviation of test logits",
    "deviation of key biases",
    "deviation of other weights",
)
SHARED = ("steps", "batch", "lr", "weight_decay", "eps", "dtype")


class _Missing(click.ClickException):
    exit_code = EXIT["UNKNOWN"]  # not click's 1, which says DIFFERENT


def _check_installed(plot: str | None) -> None:
    """What the command needs, before minutes of work."""
    from equiv import curves, training

    try:
        training.digits()
        if plot is not None:
            curves.new_figure()
    except ImportError as error:
        raise _Missing(str(error)) from error


def _draw(runs: list[Any], plot: str | None) -> None:
    from equiv import curves
    from equiv.convergence import Curve

    if plot is not None:
        draw = curves.draw_convergence if isinstance(runs[0], Curve) else curves.draw_parity
        curves.save(draw(runs), plot)


def _spread(spread: Spread, digits: int, factor: float = 1) -> str:
    mean, least, greatest = (f"{factor * value:.{digits}f}" for value in dataclasses.astuple(spread))
    return f"{mean} ({least}–{greatest})"


def _of(count: int | None, total: int) -> str:
    return "" if count is None else f"{count} of {total}"


def _environment() -> dict[str, Any]:
    import sklearn
    import torch

    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
