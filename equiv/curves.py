"""Curves of training, drawn by matplotlib: both forms and their deviation; activations with the spread of their seeds.

Colours are those of Okabe and Ito, which colour-blind people tell apart; every line has a style of its own besides.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv.convergence import ACTIVATIONS, Curve
from equiv.training import REFERENCE, TOLERANCE, Parity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "matplotlib is missing: pip install equiv[train]"

#: Colour and dashes of each line in turn: black, vermilion, blue, green.
STYLES = (("#000000", "-"), ("#D55E00", "--"), ("#0072B2", ":"), ("#009E73", "-."))
NAMES = {"deit": "small DeiT", "swin": "small Swin"}

#: Least deviation that is drawn, below what a float64 loss of size 1 can show; an exact 0 is drawn here.
FLOOR = 1e-17


def new_figure(**options: Any) -> Figure:
    """An empty figure that no window belongs to.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return Figure(layout="constrained", **options)


def draw_parity(runs: Sequence[Parity]) -> Figure:
    """For each model a column: the losses of all forms above, their deviations from the matmul form below."""
    figure = new_figure(figsize=(4.8 * len(runs), 6.2))
    steps = runs[0].recipe.steps
    figure.suptitle(f"Training both forms alike: {steps} steps of AdamW on digits, float64")
    axes = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    for column, run in enumerate(runs):
        above, below = axes[:, column]
        # The lines coincide, so that the first is drawn broad and light below the others.
        for index, (name, form) in enumerate(run.forms.items()):
            colour, dashes = ("#BBBBBB", "-") if name == REFERENCE else STYLES[index % len(STYLES)]
            above.plot(form.losses, dashes, color=colour, linewidth=5 if name == REFERENCE else 1.3, label=name)
            if name != REFERENCE:
                deviations = [
                    max(abs(a - b), FLOOR) if math.isfinite(a - b) else math.nan
                    for a, b in zip(form.losses, run.forms[REFERENCE].losses, strict=True)
                ]
                below.plot(deviations, dashes, color=colour, linewidth=1.3, label=name)
        below.axhline(TOLERANCE, color="#000000", linewidth=1)
        place = below.get_yaxis_transform()  # x as a share of the axes, y in data
        below.text(0.02, TOLERANCE, f"allowed: {TOLERANCE:g}", va="bottom", fontsize="small", transform=place)
        below.set_yscale("log")
        below.set_ylim(FLOOR / 3, max(30 * TOLERANCE, below.get_ylim()[1]))
        above.set_title(f"{NAMES[run.recipe.model]}: {run.evidence.verdict.value}")
        below.set_xlabel("step")
        above.legend(frameon=False)
        for one in (above, below):
            one.grid(alpha=0.3)
    axes[0, 0].set_ylabel("training loss of the batch")
    axes[1, 0].set_ylabel(f"|loss − loss of {REFERENCE}|\n(0 drawn at {FLOOR:g})")
    return figure


def draw_convergence(curves: Sequence[Curve]) -> Figure:
    """For each model a column: training loss above, test accuracy below; mean of the seeds and band of all of them."""
    models = list(dict.fromkeys(curve.model for curve in curves))
    seeds = len({curve.seed for curve in curves})
    figure = new_figure(figsize=(5.2 * len(models), 7))
    figure.suptitle(
        f"Activations of attention on digits: mean of {seeds} seed{'s' * (seeds != 1)}, band from the least to the "
        "greatest"
    )
    axes = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False)
    for column, model in enumerate(models):
        for (activation, label), (colour, dashes) in zip(ACTIVATIONS.items(), STYLES, strict=True):
            runs = [curve for curve in curves if (curve.model, curve.activation) == (model, activation)]
            if not runs:
                continue
            for axis, field, factor in ((axes[0, column], "losses", 1), (axes[1, column], "accuracies", 100)):
                points = [
                    [factor * value for value in at] for at in zip(*(getattr(r, field) for r in runs), strict=True)
                ]
                axis.fill_between(
                    runs[0].steps, list(map(min, points)), list(map(max, points)), color=colour, alpha=0.13
                )
                mean = [sum(at) / len(at) for at in points]
                axis.plot(runs[0].steps, mean, dashes, color=colour, linewidth=1.8, label=label)
        axes[0, column].set_title(NAMES[model])
        axes[1, column].set_xlabel("step")
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    axes[0, 0].set_ylabel("training loss, mean since the point before")
    axes[1, 0].set_ylabel("accuracy on the test images (%)")
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the file's ending; the file is replaced only by a whole one."""
    from matplotlib import rc_context

    path = Path(path).resolve()
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    metadata = {"Date": None} if path.suffix == ".svg" else None  # the same curves give the same file
    try:
        with rc_context({"svg.hashsalt": "equiv"}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
