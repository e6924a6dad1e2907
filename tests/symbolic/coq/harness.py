"""Runs Coq on the theorems of ``proofs/coq``, in a temporary folder, and believes only what Coq says in so many words.

An exit status of 0 alone counts for nothing: a theorem is proved if ``Print Assumptions`` names it and answers "Closed
under the global context", and a mutant is refused if its statement was accepted, its proof was not, and an unchanged
copy of a theorem beside it was.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.symbolic.coq.mutants import Mutant

SOURCES = Path(__file__).parents[3] / "proofs" / "coq"
VERSION = "8.16"
CLOSED = "Closed under the global context"
#: Ways to assert without proof, or to weaken the checker. ``Hypothesis`` and ``Variable`` are fine inside of sections;
#: outside of one ``Print Assumptions`` shows them.
FORBIDDEN = re.compile(
    r"\b(Admitted|admit|give_up|Axioms?|Parameters?|Conjectures?|bypass_check|Unset\s+(Guard|Positivity|Universe)\s+Checking"
    r"|Type-in-Type|Declare\s+Module|Module\s+Type|Extract|Load|Add\s+(Rec\s+)?(LoadPath|ML)|Declare\s+ML)\b"
)
_PROOF = r"^Theorem {name}\b(?P<statement>.*?)^Proof\.(?P<script>.*?)Qed\.$"


class CoqError(AssertionError):
    """Coq did not say what it should have; the message holds what it said."""


def missing(environment: Mapping[str, str] = os.environ) -> str:
    """Why the theorems cannot be checked here, or nothing if they can be."""
    coqc = shutil.which("coqc", path=environment.get("PATH"))
    if coqc is None or shutil.which("coqtop", path=environment.get("PATH")) is None:
        return "there is no coqc (Debian 12: apt-get install coq libcoq-mathcomp-algebra)"
    with tempfile.TemporaryDirectory() as folder:
        version = _run([coqc, "--print-version"], Path(folder)).split()
        library = _run([coqc, "-where"], Path(folder)).strip()
    if not version or not re.fullmatch(rf"{re.escape(VERSION)}(\.\d+)*", version[0]):
        return f"coqc is of version {version[0] if version else '?'}, the theorems are written for {VERSION}"
    where = Path(library) / "user-contrib" / "mathcomp"
    if not (where / "algebra" / "intdiv.vo").exists():
        return f"MathComp is not in {where} (Debian 12: apt-get install libcoq-mathcomp-algebra)"
    return ""


def code(text: str) -> str:
    """A source without its comments, which nest, and without its strings."""
    kept, depth, quoted = [], 0, False
    for token in re.findall(r'\(\*|\*\)|"|[^(*")]+|.', text, flags=re.DOTALL):
        if token == '"':
            quoted = not quoted
        elif not quoted and token == "(*":
            depth += 1
        elif not quoted and token == "*)":
            depth -= 1
        elif not quoted and depth == 0:
            kept.append(token)
    if depth or quoted:
        raise CoqError("a comment or a string does not end")
    return "".join(kept)


def forbidden(sources: Path = SOURCES) -> list[str]:
    """Words in the code that have no place in a proof."""
    return [
        f"{path.name}: {found[0]}"
        for path in sorted(sources.glob("*.v"))
        for found in FORBIDDEN.finditer(code(path.read_text(encoding="utf-8")))
    ]


def theorems(sources: Path = SOURCES) -> list[str]:
    """``File.name`` of every theorem."""
    found = {
        path.stem: re.findall(r"^\s*Theorem\s+(\w+)", code(path.read_text(encoding="utf-8")), re.MULTILINE)
        for path in sources.glob("*.v")
    }
    return sorted(f"{file}.{name}" for file, names in found.items() for name in names)


def build(target: Path, sources: Path = SOURCES) -> None:
    """Compile copies of all sources in ``target``, each after those that it requires.

    Raises:
        CoqError: one was refused, or left no result.
    """
    files = {path.stem: path for path in sorted(sources.glob("*.v"))}
    for path in files.values():
        shutil.copy(path, target)
    needs = {
        name: set(
            re.findall(
                r"\w+",
                " ".join(re.findall(r"^Require Import ([\w ]+)\.", path.read_text(encoding="utf-8"), re.MULTILINE)),
            )
        )
        for name, path in files.items()
    }
    done: set[str] = set()
    while done != set(files):
        ready = [name for name in files if name not in done and needs[name] <= done]
        if not ready:
            raise CoqError(f"these require each other, or what there is not: {sorted(set(files) - done)}")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda name: compiled(target, name), ready))
        done.update(ready)


def compiled(target: Path, name: str) -> str:
    """Compile ``name``.v in ``target``; what Coq printed.

    Raises:
        CoqError: it was refused, or left no result.
    """
    result = target / f"{name}.vo"
    result.unlink(missing_ok=True)
    printed = _run([_tool("coqc"), "-q", "-w", "none", "-R", ".", "Equiv", f"{name}.v"], target)
    if not result.exists() or not result.stat().st_size:
        raise CoqError(f"{name}.v left no {name}.vo: {printed}")
    return printed


def assumptions(target: Path, names: Iterable[str]) -> dict[str, str]:
    """What ``Print Assumptions`` answers for each ``File.name``, of files built in ``target``."""
    names = list(names)
    lines = [f"From Equiv Require {' '.join(sorted({name.split('.')[0] for name in names}))}."]
    for name in names:
        lines += [f'Goal True. idtac "@ {name}". Abort.', f"Print Assumptions {name}."]
    (target / "Assumptions.v").write_text("\n".join(lines) + "\n", encoding="utf-8")
    answers = re.split(r"^@ (\S+)$", compiled(target, "Assumptions"), flags=re.MULTILINE)[1:]
    return {name: answer.strip() for name, answer in zip(answers[::2], answers[1::2], strict=True)}


def unrefused(target: Path, mutants: Sequence[Mutant]) -> list[str]:
    """The mutants of one file that Coq does not refuse as it should, with what is the matter.

    The file runs in ``coqtop``, which goes on after an error, with each mutant behind the theorem that it is made from.

    Raises:
        CoqError: an unchanged copy of a theorem was not accepted, or the run did not get to its end.
    """
    (file,) = {mutant.theorem.split(".")[0] for mutant in mutants}
    text = (target / f"{file}.v").read_text(encoding="utf-8")
    control = Mutant("unchanged", mutants[0].theorem, "", "")
    for number, mutant in enumerate((control, *mutants)):
        name = mutant.theorem.split(".")[1]
        proof = re.search(_PROOF.format(name=name), text, re.MULTILINE | re.DOTALL)
        if proof is None or (mutant.old and proof["statement"].count(mutant.old) != 1):
            raise CoqError(f"{mutant.theorem}: {mutant.old!r} is not once in the statement")
        statement = proof["statement"].replace(mutant.old, mutant.new) if mutant.old else proof["statement"]
        again = (
            f'\nTheorem mutant{number}{statement}Proof.\nidtac "opened {number}.".{proof["script"]}Qed.\nAbort All.\n'
            f'Goal True. let _ := constr:(mutant{number}) in idtac "accepted {number}.". Abort.\n'
        )
        text = text[: proof.end()] + again + text[proof.end() :]
    command = [_tool("coqtop"), "-q", "-w", "none", "-R", ".", "Equiv"]
    printed = _run(command, target, text + '\nGoal True. idtac "the end.". Abort.\n')
    if "accepted 0." not in printed or "the end." not in printed:
        raise CoqError(f"{file}.v: an unchanged theorem was not accepted, or coqtop stopped early:\n{printed[-2000:]}")
    found = []
    for number, mutant in enumerate(mutants, start=1):
        if f"opened {number}." not in printed:
            found.append(f"{mutant.theorem}: {mutant.what}: the statement makes no sense")
        if f"accepted {number}." in printed:
            found.append(f"{mutant.theorem}: {mutant.what}: accepted")
    return found


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CoqError(f"there is no {name}")
    return found


def _run(command: Sequence[str], folder: Path, text: str = "") -> str:
    result = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise CoqError(f"{' '.join(command)} failed: {result.stdout}{result.stderr}")
    return result.stdout
