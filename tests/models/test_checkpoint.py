"""equiv.models.checkpoint: files of weights are read, and what would run code, or is broken, is refused."""

import collections
import contextlib
import io
import json
import os
import pathlib
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save, save_file

from equiv import models
from equiv.models.checkpoint import INDEX, PICKLES, SUFFIXES, CheckpointError, read
from tests.models.sources import SMALL

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


class Touch:
    """Unpickling it makes a file: what a stranger's pickle could do."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(path: pathlib.Path, pattern: str) -> None:
    """Refused, in the one grammar, by the reader and by ``load``."""
    with pytest.raises(
        CheckpointError, match=rf"(?s)^`path`='.*, but should be {pattern}.* \[models.checkpoint.read\]$"
    ):
        read(path)
    model = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError):
        models.weights.load(model, path)


def same(got: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


# What is read


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize("suffix", PICKLES)
def test_pickles(suffix, zipped, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    same(read(path))
    same(read(str(path)))
    torch.save({"model": collections.OrderedDict(WEIGHTS), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    same(read(path)["model"])


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    same(read(tmp_path / "weights.safetensors"))


def shards(folder: pathlib.Path, suffix: str) -> pathlib.Path:
    where = {}
    for number, (name, tensor) in enumerate(WEIGHTS.items(), 1):
        where[name] = f"model-{number}-of-2{suffix}"
        write = save_file if suffix == ".safetensors" else torch.save
        write({name: tensor}, folder / where[name])
    path = folder / f"model{suffix}{INDEX}"
    path.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": where}))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(suffix, tmp_path):
    same(read(shards(tmp_path, suffix)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_a_model_is_loaded_into_both_forms(suffix, tmp_path):
    options = {"image_size": 32, **SMALL["vit_tiny"][1]}
    source = models.create("vit_tiny", form="conv", **options)
    path = tmp_path / f"vit{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    for form in ("matmul", "conv"):
        model = models.create("vit_tiny", form=form, **options)
        models.weights.load(model, path)
        assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


# What is refused: code


def malicious(kind: str, path: pathlib.Path, marker: pathlib.Path) -> None:
    evil = {"a.weight": torch.ones(2), "b": Touch(marker)}
    if kind == "bare":
        path.write_bytes(pickle.dumps({"b": Touch(marker)}, protocol=2))
    elif kind == "instead of a dict":
        torch.save(Touch(marker), path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "instead of a dict"])
@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_that_runs_code_is_refused_and_not_run(suffix, kind, tmp_path):
    path, marker = tmp_path / f"evil{suffix}", tmp_path / "ran"
    malicious(kind, path, marker)
    refused(path, rf"weights alone, but is a pickle that calls {os.mkdir.__module__}\.mkdir; that was not run")
    assert not marker.exists()


def test_the_malicious_pickle_would_have_run(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()
    malicious("zip", tmp_path / "evil.pth", tmp_path / "ran too")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran too").exists()


def test_a_malicious_shard_is_refused(tmp_path):
    path = shards(tmp_path, ".bin")
    torch.save({"b": Touch(tmp_path / "ran")}, tmp_path / "model-2-of-2.bin")
    with pytest.raises(CheckpointError, match=r"model-2-of-2\.bin.*calls \w+\.mkdir; that was not run"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", r"weights alone, but is a pickle that calls torch\.nn\.modules\.linear\.Linear")


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"")
    refused(path, "weights alone, but is a TorchScript archive, which holds code")


# What is refused: everything else


def saved(suffix: str) -> bytes:
    if suffix == ".safetensors":
        return save(WEIGHTS)
    if suffix == INDEX:
        return b'{"weight_map": {"a": "shard.bin"}}'
    file = io.BytesIO()
    torch.save(WEIGHTS, file)
    return file.getvalue()


@pytest.mark.parametrize("keep", [1, 9, 40, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_truncated(suffix, keep, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(saved(suffix)[:keep])
    refused(path, "whole, but cannot be read|in the format")


@pytest.mark.parametrize("position", [0, 8, 20, 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged(suffix, position, tmp_path):
    """A flipped byte in the structure; one in the values is not noticed, as neither format has checksums for them."""
    path, content = tmp_path / f"weights{suffix}", bytearray(saved(suffix))
    for offset in range(8):
        content[position + offset] ^= 0xFF
    path.write_bytes(content)
    got = None
    with contextlib.suppress(CheckpointError):  # anything else fails
        got = read(path)
    if got is not None:
        same(got)


@pytest.mark.parametrize("content", SUFFIXES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_must_be_what_the_suffix_says(suffix, content, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(saved(content))
    torch.save({"a": torch.ones(2)}, tmp_path / "shard.bin")
    if suffix == content or {suffix, content} <= set(PICKLES):
        assert isinstance(read(path), dict)
    else:
        refused(path, "in the format (PyTorch|safetensors|JSON), as its suffix says, but its content is (?!unknown)")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer: fetch the file itself"),
        (b"<!DOCTYPE html><html>", r"unknown \(it begins with b'<!DOCTYP'\)"),
    ],
    ids=["empty", "lfs", "html"],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_content(suffix, content, what, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refused(path, f"in the format [a-zA-Z]+, as its suffix says, but its content is {what}")


@pytest.mark.parametrize("name", ["weights.npz", "weights", "weights.pth.tar", "weights.json", ".pth"])
def test_unknown_suffixes(name, tmp_path):
    (tmp_path / name).write_bytes(saved(".pth"))
    refused(tmp_path / name, r"a file ending in \.safetensors, \.pth, \.pt, \.bin, \.index\.json")


def test_directories_and_missing_files(tmp_path):
    refused(tmp_path, "a file, not a directory")
    (tmp_path / "weights.pth").mkdir()
    refused(tmp_path / "weights.pth", "a file, not a directory")
    refused(tmp_path / "missing.pth", "an existing regular file")
    os.mkfifo(tmp_path / "pipe.pth")  # opening it would wait forever
    refused(tmp_path / "pipe.pth", "an existing regular file")


@pytest.mark.parametrize("state", [torch.ones(2), [torch.ones(2)], {3: torch.ones(2)}])
def test_a_pickle_of_something_else(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "a dict of tensors by name, but it holds a ")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", "whole, but cannot be read"),
        ("{}", 'an index with a "weight_map"'),
        ('{"weight_map": {"b": 3}}', 'an index with a "weight_map"'),
        ('{"weight_map": {"b": "../model-2-of-2.bin"}}', "an index of files beside it, but it names"),
        ('{"weight_map": {"b": "..\\\\\\\\model-2-of-2.bin"}}', "an index of files beside it, but it names"),
        ('{"weight_map": {"b": "model.bin.index.json"}}', "an index of weights, but it names another index"),
        ('{"weight_map": {"c": "model-2-of-2.bin"}}', "in agreement with .* but is not about b, c"),
        ('{"weight_map": {}}', 'an index with a "weight_map"'),
    ],
)
def test_indices_that_are_wrong(index, reason, tmp_path):
    path = shards(tmp_path, ".bin")
    path.write_text(index)
    refused(path, reason)


def test_a_missing_shard(tmp_path):
    path = shards(tmp_path, ".safetensors")
    (tmp_path / "model-1-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1-of-2\.safetensors', but should be an existing regular file"):
        read(path)
