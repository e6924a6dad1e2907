"""The notebooks: executed, what their scripts give, and complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from equiv.symbolic import FAMILIES

PROOFS = Path(__file__).parents[2] / "proofs"
for package in ("jupytext", "nbclient", "nbformat", "ipykernel", "matplotlib"):
    pytest.importorskip(package, reason=f"{package} is missing: pip install equiv[notebooks]")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_notebooks", PROOFS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_for_each_family_with_all_its_identities():
    scripts = sorted(PROOFS.glob("[0-9]*.py"))
    assert [int(script.name[:2]) for script in scripts] == [family.number for family in FAMILIES]
    for script, family in zip(scripts, FAMILIES, strict=True):
        text = script.read_text()
        assert [f'find("{i.name}")' in text for i in family.identities] == [True] * len(family.identities)
        assert f"bridge({family.number})" in text
        assert "show.kernels(" in text
        assert script.with_suffix(".ipynb").exists()


@pytest.mark.filterwarnings("default")  # of the notebook packages
def test_executing_the_scripts_gives_the_committed_notebooks(build):
    assert build.differing(build.executed(build.SCRIPTS)) == []


def test_a_changed_cell_or_output_is_noticed(build, tmp_path):
    import nbformat

    path = PROOFS / "01_linear.ipynb"
    for change in ("source", "output"):
        notebook = nbformat.read(path, as_version=4)
        cell = next(cell for cell in notebook.cells if cell.get("outputs"))
        if change == "source":
            cell.source += "\n# changed"
        else:
            cell = [cell for cell in notebook.cells if cell.get("outputs")][-1]
            cell.outputs[0].text = cell.outputs[0].text.replace("EQUAL", "UNKNOWN")
        assert build.comparable(notebook) != build.comparable(nbformat.read(path, as_version=4)), change
