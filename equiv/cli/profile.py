"""``equiv profile``."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from equiv import __version__
from equiv.cli.output import EXIT, new_console, new_table, print_table, track, writable, write_json

if TYPE_CHECKING:
    from equiv.profiling.run import Profile, Target

FORMS = ("matmul", "conv")  # of equiv.profiling.run, which imports torch
LOWERINGS = ("literal", "fused")
DTYPES = ("float64", "float32", "bfloat16", "float16")


@click.command(short_help="Profile a model in both forms, by role of its operators.")
@click.argument("target")
@click.option(
    "--form", "forms", type=click.Choice(FORMS), multiple=True, help="Repeatable; each is a run.  [default: both]"
)
@click.option(
    "--lowering", type=click.Choice(LOWERINGS), default="literal", show_default=True, help="Of the conv form."
)
@click.option("--logdir", type=click.Path(file_okay=False), default="runs", show_default=True, help="For TensorBoard.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="N", help="Of a model.  [default: 224]")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images at once.  [default: 1]")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", default=3, show_default=True, help="To average over.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True)
@click.option("--backward/--forward-only", default=True, help="With gradients, or without.  [default: with]")
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Of weights, input."
)
@click.option("--json", "output", metavar="FILE", callback=writable, help="Also write all figures; - is stdout.")
@click.pass_context
def profile(
    ctx: click.Context,
    /,
    target: str,
    forms: tuple[str, ...],
    logdir: str,
    steps: int,
    output: str | None,
    **options: Any,
) -> None:
    """Profile TARGET, a model of `equiv models` or an operator of `equiv table 1`, on the same weights and input.

    Each form becomes a run in LOGDIR/TARGET, with a trace for TensorBoard's PyTorch profiler (or Perfetto), in which
    operators lie in slices by role, named equiv::bank, equiv::selection, equiv::first kernel and so on.

    The table has by role the milliseconds of a step, and the megabytes of the tensors that it makes, kept or not. The
    profiler costs time itself: the time of a step without it stands below.

    Exit status: 0 profiled, 2 not, or the two forms give no numbers to compare. Whether they are equal is for
    `equiv verify` to say.
    """
    # Else PyTorch's profiler writes to stderr that it starts and stops. Both are read when torch is loaded.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from equiv.profiling import run as work

    chosen = tuple(dict.fromkeys(forms)) or FORMS
    try:
        subject = work.Target(target, **options)
        total = work.count(chosen, steps)
        done = list(track(work.run(subject, chosen, steps, logdir), total, f"profiling {target}"))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error), ctx) from error
    except OSError as error:
        raise click.UsageError(f"--logdir: {error}", ctx) from error
    profiles = [one for one in done if one is not None]
    if output is not None:
        write_json(output, _report(subject, profiles))
    console = new_console(stderr=output == "-")
    _print_roles(console, profiles)
    for line in _lines(profiles, logdir):
        console.print(line, soft_wrap=True)
    comparable = all(math.isfinite(value) for one in profiles for value in one.deviations.values())
    if not comparable:
        console.print("the forms cannot be compared: their results are not finite numbers", soft_wrap=True)
    ctx.exit(EXIT["EQUAL"] if comparable else EXIT["UNKNOWN"])


def _print_roles(console: Any, profiles: list[Profile]) -> None:
    """A table with a row for each role and four columns for each form."""
    tops = [one.form.split("-") for one in profiles]
    height = max(map(len, tops))
    titles = []
    for top in tops:
        lines = "\n".join([""] * (height - len(top)) + top)
        titles += [f"{lines}\nms", *("\n" * height + title for title in ("share", "calls", "MB"))]
    table = new_table("\n" * height + "role", *titles)
    for column in table.columns[1:]:
        column.justify = "right"
    found = [{part.role: part for part in one.summary.parts} for one in profiles]
    order = [role for role in _all_roles() if any(role in parts for parts in found)]
    for role in order:
        cells = []
        for one, parts in zip(profiles, found, strict=True):
            part = parts.get(role)
            if part is None:
                cells += ["–"] * 4
            else:
                calls = f"{part.calls:.0f}" if part.calls else "–"
                share = f"{100 * part.time / one.summary.step:.1f}%"
                cells += [f"{part.time:.2f}", share, calls, f"{part.allocated / 1e6:.2f}"]
        table.add_row(role, *cells, end_section=role == order[-1])
    sums = []
    for one in profiles:
        sums += [f"{one.summary.step:.2f}", "", "", f"{sum(p.allocated for p in one.summary.parts) / 1e6:.2f}"]
    table.add_row("step", *sums)
    print_table(console, table)


def _all_roles() -> list[str]:
    from equiv.profiling.roles import ROLES
    from equiv.profiling.trace import BETWEEN, OTHER

    return [*ROLES, OTHER, BETWEEN]


def _lines(profiles: list[Profile], logdir: str) -> list[str]:
    """What stands below the table: per form, then how to look closer."""
    from equiv.profiling.run import INSTALL

    lines = []
    for one in profiles:
        steps = one.summary.steps
        lines.append(
            f"{one.form}: {1e3 * one.median:.2f} ms a step without profiler (median of {steps}), "
            f"tensors of a step take up {one.summary.peak / 1e6:.2f} MB at most"
        )
    for one in profiles:
        if one.deviations:
            values = ", ".join(f"{name} {value:.1e}" for name, value in one.deviations.items())
            lines.append(f"{one.form} deviates from matmul: {values} (relative to the largest element)")
    lines += [f"trace: {one.trace}" for one in profiles]
    lines.append(f"open: tensorboard --logdir {shlex.quote(logdir)}   or a trace at https://ui.perfetto.dev")
    # It stays blank until Google's charts are loaded, which it does not say.
    lines.append("      (the plugin's page PYTORCH_PROFILER needs the net for its charts)")
    if not all(one.scalars for one in profiles):
        lines.append(f"note: scalars were not written, and TensorBoard cannot be opened: {INSTALL}")
    return lines


def _report(target: Target, profiles: list[Profile]) -> dict[str, Any]:
    import torch

    return {
        "version": __version__,
        "torch": torch.__version__,
        "target": dataclasses.asdict(target),
        "runs": [
            {
                "form": one.form,
                "folder": str(one.folder),
                "trace": str(one.trace),
                "scalars": one.scalars,
                "seconds": list(one.seconds),
                "peak_bytes": one.summary.peak,
                "deviations": one.deviations,
                "clock": one.summary.clock,
                "profiled_step_ms": one.summary.step,
                "roles": [
                    {
                        "role": part.role,
                        "forward_ms": part.forward,
                        "backward_ms": part.backward,
                        "calls": part.calls,
                        "allocated_bytes": part.allocated,
                    }
                    for part in one.summary.parts
                ],
            }
            for one in profiles
        ],
    }
