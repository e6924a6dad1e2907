"""Files of weights, read without running anything that is in them.

A ``.pth`` file is a pickle, and a pickle is a program: loading one from a stranger hands the machine over. Here only
PyTorch's restricted unpickler runs (``weights_only=True``), which knows tensors and containers and no other function.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file

PICKLES = (".pth", ".pt", ".bin")
INDEX = ".index.json"
SUFFIXES = (".safetensors", *PICKLES, INDEX)


class CheckpointError(ValueError):
    """A file of weights that is refused or cannot be read; the message names the file and says why."""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of weights holds, on the CPU; memory-mapped where the format allows.

    Args:
        path: ``.safetensors``; ``.pth``, ``.pt`` or ``.bin`` as written by ``torch.save``; or the ``.index.json`` of
            weights in several files, which lie beside it.

    Returns:
        dict: tensors by name; or, from ``torch.save``, whatever dict was saved (see :func:`equiv.models.weights.load`).

    Raises:
        CheckpointError: the file is missing, no regular file, of an unknown suffix, of another format than its suffix
            says, truncated or corrupt; or it is a pickle that calls anything but the making of tensors.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.zeros(2, 3)}, f"{folder}/a.pth")
        ...     read(f"{folder}/a.pth")["weight"].shape
        torch.Size([2, 3])
    """
    path = pathlib.Path(path)
    suffix = INDEX if path.name.endswith(INDEX) else path.suffix
    if path.is_dir():
        raise _refused(path, "a file, not a directory: name the file of weights in it")
    if suffix not in SUFFIXES:
        raise _refused(path, f"a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise _refused(path, "an existing regular file")
    expected = "PyTorch" if suffix in PICKLES else "JSON" if suffix == INDEX else "safetensors"
    found = _format(path)
    if expected not in found:
        raise _refused(path, f"in the format {expected}, as its suffix says, but its content is {found}")
    try:
        if suffix == INDEX:
            return _read_shards(path)
        state = _read_pickle(path) if suffix in PICKLES else load_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the readers raise on bytes that are not theirs
        reason = " ".join(str(error).split())[:200]
        raise _refused(path, f"whole, but cannot be read ({type(error).__name__}: {reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise _refused(path, f"a dict of tensors by name, but it holds a {type(state).__name__}")
    return dict(state)


def _refused(path: pathlib.Path, expected: str) -> CheckpointError:
    # Not by message(), which cuts long values: here the file's name comes last.
    return CheckpointError(f"`path`={str(path)!r}, but should be {expected} [models.checkpoint.read]")


def _format(path: pathlib.Path) -> str:
    """The format by the first bytes, for people and for comparison with the suffix."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    if start.startswith(b"PK\x03\x04"):
        return "PyTorch's (zip)"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "PyTorch's (a bare pickle)"
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < 2**32:  # a header's length, and the header
        return "safetensors"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: fetch the file itself with `git lfs pull`"
    if start.lstrip()[:1] == b"{":
        return "JSON"
    return f"unknown (it begins with {start[:8]!r})"


def _read_pickle(path: pathlib.Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist()):
                raise _refused(path, "weights alone, but is a TorchScript archive, which holds code")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # "Unsupported global: GLOBAL a.b was not an allowed global by default", "Trying to load unsupported GLOBAL a.b"
        called = re.search(r"(?i:unsupported )(?:global: )?GLOBAL ([\w.]*\w)", str(error))
        if called is None:
            raise
        expected = f"weights alone, but is a pickle that calls {called.group(1)}; that was not run"
        raise _refused(path, expected) from error


def _read_shards(path: pathlib.Path) -> dict[str, Any]:
    index = json.loads(path.read_text(encoding="utf-8"))
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise _refused(path, 'an index with a "weight_map" from names to files')
    state: dict[str, Any] = {}
    for file in sorted(set(where.values())):
        if pathlib.PureWindowsPath(file).name != file:  # for which / and \\ both separate
            raise _refused(path, f"an index of files beside it, but it names {file!r}")
        if file.endswith(INDEX):
            raise _refused(path, f"an index of weights, but it names another index, {file!r}")
        shard = read(path.parent / file)
        names = {name for name, other in where.items() if other == file}
        if set(shard) != names:
            odd = ", ".join(sorted(set(shard) ^ names)[:3])
            raise _refused(path, f"in agreement with {file!r} about what that holds, but is not about {odd}")
        state |= shard
    return state
