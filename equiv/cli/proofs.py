"""``equiv proofs``, and ``equiv verify --rung symbolic``: the identities, proved now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from equiv import __version__
from equiv.cli.output import EXIT, STYLES, new_console, new_table, print_table, track, writable, write_json
from equiv.errors import message

if TYPE_CHECKING:
    from equiv.ladder.evidence import Evidence
    from equiv.symbolic import Family

NOTES = (
    "verdict: the derivation holds step by step, its facts hold in concrete cases, and its wrong variants are refused",
    "bridge: the family's expressions and the layers, in all their forms, are bit-equal on integers",
    "Coq: the same statement in proofs/coq; not checked by this command, but by pytest -m coq",
)


@click.command(short_help="Prove the identities behind the operators, for every size.")
@click.option(
    "--json", "output", metavar="[FILE]", is_flag=False, flag_value="-", callback=writable, help="Write JSON instead."
)
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.pass_context
def proofs(ctx: click.Context, output: str | None, markdown: bool) -> None:
    """Prove the identities behind the operators, and list them: claim, layers, notebook, theorem in Coq, verdict.

    The proofs are about the mathematics, for every size. What they say about the code is what the bridge shows.

    Exit status: 0 all EQUAL, 1 something DIFFERENT, 2 otherwise (UNKNOWN, or wrong usage).
    """
    if output is not None and markdown:
        raise click.UsageError("--json and --markdown exclude each other", ctx)
    from equiv import symbolic
    from equiv.ladder.evidence import worst

    total = len(symbolic.FAMILIES)
    pairs = list(zip(symbolic.FAMILIES, track(symbolic.prove_each(), total, "proving"), strict=True))
    verdict = worst([evidence.verdict for _, evidence in pairs]).value
    rows = [row for family, evidence in pairs for row in _rows(family, evidence)]
    reasons = [f"{e.verdict.value} {e.claim}: {e.reason}" for _, e in pairs if e.reason]
    if output is not None:
        write_json(output, {"version": __version__, "verdict": verdict, "rows": rows})
        for line in reasons:
            click.echo(line, err=True)
    elif markdown:
        click.echo("\n".join([*markdown_table(rows), "", *(f"{note}\n" for note in NOTES), *reasons]))
    else:
        _print(pairs, rows, reasons)
    ctx.exit(EXIT[verdict])


def _rows(family: Family, evidence: Evidence) -> list[dict[str, Any]]:
    """What there is to say of each identity of a family."""
    from equiv.symbolic.sources import NOTEBOOKS, THEOREMS

    bridge = evidence.parts[-1]
    return [
        {
            "family": family.number,
            "title": family.title,
            "identity": identity.name,
            "claim": identity.claim,
            "layers": list(family.covers),
            "notebook": f"proofs/{NOTEBOOKS[family.number]}.ipynb",
            "coq": list(THEOREMS[identity.name]),
            "verdict": part.verdict.value,
            "bridge": bridge.verdict.value,
            "evidence": part.to_dict(),
        }
        for identity, part in zip(family.identities, evidence.parts[:-1], strict=True)
    ]


def markdown_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table, with links that work in ``proofs/``."""
    lines = ["| identity | claim | layers | notebook | theorems in Coq | verdict | bridge |", "|---|" + "---|" * 6]
    for row in rows:
        notebook = row["notebook"].removeprefix("proofs/")
        theorems = [(name.split(".")[0], name) for name in row["coq"]]
        cells = [
            row["identity"],
            row["claim"].replace("|", "\\|"),
            ", ".join(row["layers"]),
            f"[{notebook[:2]}]({notebook})",
            ", ".join(f"[`{name}`](coq/{file}.v)" for file, name in theorems),
            row["verdict"],
            row["bridge"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _print(pairs: list[tuple[Family, Evidence]], rows: list[dict[str, Any]], reasons: list[str]) -> None:
    from rich.text import Text

    console = new_console()
    table = new_table("", "identity", "theorem in Coq", "verdict", "bridge")
    for column in table.columns[1:3]:
        column.overflow, column.no_wrap = "fold", False
    numbers = [row["family"] for row in rows]
    for index, row in enumerate(rows):
        if row["family"] not in numbers[:index]:
            title, layers = Text(row["title"], "bold"), Text(", ".join(row["layers"]))
            table.add_row(Text(str(row["family"]), "bold"), title, Text(""), Text(""), Text(""))
            table.add_row("", layers, Text(row["notebook"]), Text(""), Text(""))
        verdicts = [Text(row[name], STYLES[row[name]]) for name in ("verdict", "bridge")]
        table.add_row(row["identity"], row["claim"], "\n".join(row["coq"]), *verdicts)
    print_table(console, table)
    counts = ", ".join(f"{sum(row['verdict'] == name for row in rows)} {name}" for name in EXIT)
    bridges = sum(evidence.parts[-1].verdict.value == "EQUAL" for _, evidence in pairs)
    summary = f"{len(rows)} identities: {counts}; {bridges} of {len(pairs)} bridges hold"
    for line in (*NOTES, *reasons, summary):
        console.print(line, soft_wrap=True)


def verify_symbolic(ctx: click.Context, pairs: tuple[str, ...], output: str | None, quiet: bool) -> None:
    """``equiv verify --rung symbolic``: one row for each family that covers one of the operators named, or for all.

    Raises:
        click.UsageError: there is no such operator.
    """
    from rich.text import Text

    from equiv import symbolic
    from equiv.ladder.evidence import worst

    known = [name for family in symbolic.FAMILIES for name in family.covers if " " not in name]
    for name in pairs:
        if name not in known:
            expected = f"an operator with proofs: {', '.join(dict.fromkeys(known))}"
            raise click.UsageError(message("PAIR", name, expected, "equiv verify --rung symbolic"), ctx)
    families = [family for family in symbolic.FAMILIES if not pairs or {*pairs} & {*family.covers}]
    start = time.perf_counter()
    proved = symbolic.prove_each(families)
    found = list(track(proved, len(families), "proving", hidden=quiet))
    verdict = worst([evidence.verdict for evidence in found]).value
    if output is not None:
        rows = [{"subject": f"family {f.number}"} | e.to_dict() for f, e in zip(families, found, strict=True)]
        report = {"version": __version__, "rung": "symbolic", "verdict": verdict, "rows": rows}
        write_json(output, report)
    console = new_console(stderr=output == "-")
    table = new_table("family", "verdict", "time")
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    for evidence in found:
        value = evidence.verdict.value
        table.add_row(evidence.claim, Text(value, STYLES[value]), f"{evidence.numbers['seconds']:.1f} s")
    if not quiet:
        print_table(console, table)
    for evidence in found:
        if evidence.reason:
            value = evidence.verdict.value
            title = Text.assemble((value, STYLES[value]), f" {evidence.claim}")
            for line in (title, f"  {evidence.reason}", f"  reproduce: {evidence.reproduce}", ""):
                console.print(line, soft_wrap=True)
    counts = ", ".join(f"{sum(e.verdict.value == name for e in found)} {name}" for name in EXIT)
    took = time.perf_counter() - start
    checks = f"{len(found)} check{'s' * (len(found) != 1)}"
    console.print(f"{checks}: {counts} ({took:.1f} s)", soft_wrap=True)
    ctx.exit(EXIT[verdict])
