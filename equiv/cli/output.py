"""What the commands share: exit statuses, tables on the terminal, JSON in files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from equiv.errors import message

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
EXIT = {"EQUAL": 0, "DIFFERENT": 1, "UNKNOWN": 2}
STYLES = {"EQUAL": "green", "DIFFERENT": "bold red", "UNKNOWN": "yellow"}


def writable(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Checked before minutes of work, not after."""
    if text in (None, "-"):
        return text
    path = Path(text).resolve()
    # A file is replaced, for which its directory must be writable; a device or a pipe is written to.
    if path.is_dir() or not os.access(path if _is_special(path) else path.parent, os.W_OK):
        expected = "a file that can be written, in a directory that exists"
        raise click.UsageError(message(parameter.opts[0], text, expected, ctx.command_path), ctx)
    return text


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def new_console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def new_table(*titles: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def print_table(console: Console, table: Any) -> None:
    """Print with nothing cut off: spaced out if there is room, and as wide as it likes if no terminal limits it."""
    natural = console.measure(table, options=console.options.update(max_width=10**4)).maximum
    spacious = natural + len(table.columns) - 1
    console.width = max(console.width, 80) if console.is_terminal else spacious
    if spacious <= console.width:
        table.padding = (0, 1, 0, 0)
    console.print(table)
    console.print()


@contextlib.contextmanager
def progress(total: int, what: str, *, hidden: bool = False) -> Iterator[Callable[[str], None]]:
    """A progress bar for people who watch; it advances by one whenever what is yielded is called with a description."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    watched = sys.stderr.isatty() and not hidden
    with Progress(*columns, console=new_console(stderr=True), transient=True, disable=not watched) as bar:
        task = bar.add_task(what, total=total)
        yield lambda description: bar.update(task, advance=1, description=description)


def track(steps: Iterable[T], total: int, what: str, *, hidden: bool = False) -> Iterator[T]:
    """The steps, ``total`` of them, under a progress bar."""
    with progress(total, what, hidden=hidden) as advance:
        for step in steps:
            advance(what)
            yield step


def write_json(output: str, data: Any) -> None:
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
