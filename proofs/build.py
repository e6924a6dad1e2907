"""Execute the percent scripts of this folder and write each with its outputs as ``.ipynb``.

    python proofs/build.py          write the notebooks
    python proofs/build.py --check  say which committed notebooks differ from what their scripts give

All scripts run one after the other in one kernel, each in an empty namespace. Pictures are not compared: their bytes
depend on the version of matplotlib; everything else is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("[0-9][0-9]_*.py"))
_RESET = "get_ipython().run_line_magic('reset', '-f')"


def executed(scripts: list[Path]) -> dict[Path, nbformat.NotebookNode]:
    """The scripts as notebooks, with outputs."""
    notebooks = {script: jupytext.read(script, fmt="py:percent") for script in scripts}
    whole = nbformat.v4.new_notebook()
    for notebook in notebooks.values():
        whole.cells += [nbformat.v4.new_code_cell(_RESET), *notebook.cells]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])  # this checkout
    NotebookClient(whole, timeout=300, kernel_name="python3", record_timing=False).execute(cwd=str(HERE))
    for notebook in notebooks.values():
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        count = 0
        for number, cell in enumerate(notebook.cells):
            cell.id, cell.metadata = f"cell{number}", {}
            if cell.cell_type == "code":
                count += 1
                cell.execution_count = count
                for output in cell.outputs:
                    if output.output_type == "execute_result":
                        output.execution_count = count
    return notebooks


def comparable(notebook: nbformat.NotebookNode) -> list[Any]:
    """Everything in a notebook but its pictures."""
    return [
        (
            cell.cell_type,
            cell.source,
            [{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in cell.get("outputs", [])],
        )
        for cell in notebook.cells
    ]


def differing(notebooks: dict[Path, nbformat.NotebookNode]) -> list[str]:
    """The names of the scripts whose committed notebook is missing or differs."""
    found = []
    for script, notebook in notebooks.items():
        path = script.with_suffix(".ipynb")
        if not path.exists() or comparable(nbformat.read(path, as_version=4)) != comparable(notebook):
            found.append(script.name)
    return found


def main() -> int:
    notebooks = executed(SCRIPTS)
    if "--check" in sys.argv[1:]:
        found = differing(notebooks)
        print(f"differ: {', '.join(found)}" if found else f"{len(notebooks)} notebooks agree with their scripts")
        return bool(found)
    for script, notebook in notebooks.items():
        nbformat.write(notebook, script.with_suffix(".ipynb"))
    print(f"wrote {len(notebooks)} notebooks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
