"""The command line: parse, call, print. torch and rich are imported by the commands, when they start to work."""

from __future__ import annotations

import traceback
from typing import Any

import click

from equiv import __version__
from equiv.cli.output import EXIT
from equiv.cli.profile import profile
from equiv.cli.proofs import proofs
from equiv.cli.table import models, table
from equiv.cli.train import train
from equiv.cli.verify import verify

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


for command in (verify, table, models, train, profile, proofs):
    main.add_command(command)
