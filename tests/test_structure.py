"""Imports point one way, importing is cheap, and what is public is explained."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import equiv
from equiv import conv, matmul

ROOT = pathlib.Path(equiv.__file__).parent
MODELS = ROOT.parent / "models"  # imported as equiv.models
FILES = sorted([*ROOT.rglob("*.py"), *MODELS.rglob("*.py")])

#: What each part of the package may import of it, beside itself. Longest prefix first.
ALLOWED = {
    "equiv.errors": set(),
    "equiv.layout": set(),
    "equiv.picture": {"equiv.errors"},
    "equiv.matmul": {"equiv.errors", "equiv.layout"},
    "equiv.conv": {"equiv.errors", "equiv.layout"},
    "equiv.catalogue": {"equiv.errors", "equiv.matmul", "equiv.conv"},
    "equiv.ladder": {"equiv.errors"},
    "equiv.symbolic": {"equiv.errors", "equiv.matmul", "equiv.conv", "equiv.ladder"},
    "equiv.testing": {"equiv.errors", "equiv.matmul", "equiv.catalogue", "equiv.ladder"},
    "equiv.models": {"equiv.errors", "equiv.layout", "equiv.matmul", "equiv.conv"},
    "equiv.counting": set(),
    "equiv.tables": {"equiv.catalogue", "equiv.conv", "equiv.counting", "equiv.models"},
    "equiv.libraries": {"equiv.errors", "equiv.layout"},
    "equiv.networks": {"equiv.libraries", "equiv.models", "equiv.ladder"},
    "equiv.parity": {"equiv.networks", "equiv.libraries", "equiv.models", "equiv.picture", "equiv.ladder"},
    "equiv.peers": {
        "equiv.errors",
        "equiv.layout",
        "equiv.libraries",
        "equiv.picture",
        "equiv.matmul",
        "equiv.conv",
        "equiv.catalogue",
        "equiv.ladder",
    },
    "equiv.verify": {"equiv.errors", "equiv.catalogue", "equiv.ladder", "equiv.peers", "equiv.parity", "equiv.models"},
    "equiv.training": {"equiv.errors", "equiv.ladder", "equiv.models"},
    "equiv.convergence": {"equiv.errors", "equiv.training"},
    "equiv.curves": {"equiv.convergence", "equiv.training"},
    "equiv.cli": {
        "equiv.errors",
        "equiv.verify",
        "equiv.tables",
        "equiv.ladder",
        "equiv.models",
        "equiv.training",
        "equiv.convergence",
        "equiv.curves",
        "equiv.profiling",
        "equiv.symbolic",
    },
    "equiv.profiling": {"equiv.errors", "equiv.conv", "equiv.catalogue", "equiv.ladder", "equiv.models"},
}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    parts = ("equiv", *parts) if path.is_relative_to(MODELS) else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(name: str) -> str:
    """``equiv.conv.bank`` belongs to ``equiv.conv``."""
    return ".".join(name.split(".")[:2])


def imports(source: str) -> set[str]:
    """Modules of equiv that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "equiv":
            found |= {f"equiv.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
    return {name for name in found if name.startswith("equiv.") and not name.startswith("equiv.__")}


def wrong_arrows(name: str, source: str) -> set[str]:
    """What the module ``name`` imports and must not."""
    return {other for other in map(part, imports(source)) if other not in ALLOWED[part(name)] | {part(name)}}


@pytest.mark.parametrize("path", [f for f in FILES if f != ROOT / "__init__.py"], ids=lambda path: module_name(path))
def test_imports_point_one_way(path):
    assert wrong_arrows(module_name(path), path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("equiv.conv.bank", "from equiv.matmul.heads import split_heads"),
        ("equiv.matmul.window", "from equiv import conv"),
        ("equiv.ladder.rule", "def f():\n    import equiv.catalogue"),
        ("equiv.conv.bank", "from equiv import ladder"),
    ],
)
def test_wrong_imports_are_found(name, source):
    assert wrong_arrows(name, source)


@pytest.mark.parametrize("name", ["equiv", "equiv.testing", "equiv.testing.plugin", "equiv.errors", "equiv.cli"])
def test_importing_is_cheap(name):
    program = f"import {name}, sys; print([m for m in ('torch', 'numpy', 'hypothesis', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_lazy_names():
    for name in equiv.__all__:
        assert getattr(equiv, name) is not None
        assert name in dir(equiv)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = equiv.nothing


@pytest.mark.parametrize("form", [conv, matmul], ids=["conv", "matmul"])
def test_public_names_are_explained(form):
    for name in form.__all__:
        thing = getattr(form, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name
            if name in matmul.__all__ or name.startswith("merge"):
                document = inspect.getdoc(thing)
                assert document is not None
                for section in ("Example:", "Raises:", ">>>"):
                    assert section in document, (name, section)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path))
def test_a_file_is_one_subject(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "what is it about?"


@pytest.mark.parametrize("name", ["equiv.testing", "equiv.testing.strategies"])
def test_what_other_suites_use_has_examples(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert ">>>" in (inspect.getdoc(thing) or ""), public


def test_nothing_names_a_path_of_the_machine_that_it_was_written_on():
    """In what git tracks; the words are put together here, so as not to be found."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["/" + "work/", "/tmp/" + "v0", "/home" + "/", "/root" + "/"]
    folder = re.compile(r"(?<!\w)\." + "library")  # not the attribute of that name, as torch has one
    files = [ROOT.parent / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 20
    for path in files:
        text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        assert not [word for word in words if word in text], path
        assert folder.search(text) is None, path


def test_every_module_imports():
    for path in FILES:
        importlib.import_module(module_name(path))
