"""equiv.picture: the project's own picture and the reading of others."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from equiv import picture

ROOT = Path(__file__).parents[1]


def rgb(loaded: torch.Tensor) -> torch.Tensor:
    """The pixels (H, W, 3) in 0..255 behind what ``load`` returned."""
    mean, std = torch.tensor(picture.MEAN), torch.tensor(picture.STD)
    return (loaded[0].permute(1, 2, 0) * std + mean) * 255


def test_own_picture_is_what_the_tool_draws() -> None:
    spec = importlib.util.spec_from_file_location("draw_picture", ROOT / "tools" / "draw_picture.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    difference = (rgb(picture.load()) - torch.from_numpy(tool.draw()).float()).abs()
    assert (
        difference > 1.01
    ).float().mean() < 0.001  # rounding of another processor may move a pixel, and ripples with it


def test_own_picture_has_structure_at_every_scale() -> None:
    x = picture.load()
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    for size in (1, 4, 16, 56):
        coarse = torch.nn.functional.avg_pool2d(x, size)
        assert (coarse[..., 1:] - coarse[..., :-1]).abs().mean() > 0.1, size


@pytest.mark.parametrize("size", [1, 224, (7, 300)])
def test_sizes(size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    assert picture.load(size=size).shape == (1, 3, height, width)


def test_height_comes_before_width(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "wide.png"
    Image.new("RGB", (6, 2), (255, 0, 51)).save(path)
    got = rgb(picture.load(str(path), size=(2, 6)))
    assert got.shape == (2, 6, 3)
    torch.testing.assert_close(got, torch.tensor([255.0, 0.0, 51.0]).expand(2, 6, 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    path = tmp_path / "picture.tiff"
    Image.new("RGB", (5, 5), (255, 255, 255)).convert(mode).save(path)
    torch.testing.assert_close(rgb(picture.load(path, size=5)), torch.full((5, 5, 3), 255.0), rtol=0, atol=2)


@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: str) -> None:
    own = (ROOT / "equiv" / "picture.png").read_bytes()
    path = tmp_path / ("long" * 30 + "_no_picture.png")
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": own[: len(own) // 2]}[content])
    with pytest.raises(ValueError, match=r"`path`=.*no_picture\.png.*, but should be an image .*\[picture\.load\]"):
        picture.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        picture.load(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("size", "error", "text"),
    [
        (0, ValueError, "`size`=0, but should be an integer of at least 1 [picture.load]"),
        (True, TypeError, "`size`=True, but should be an integer of at least 1 [picture.load]"),
        (2.5, TypeError, "`size`=2.5, but should be an integer of at least 1 [picture.load]"),
        ((8, -1), ValueError, "`size[1]`=-1, but should be an integer of at least 1 [picture.load]"),
        ((1, 2, 3), ValueError, "`size`=(1, 2, 3), but should be an integer or a pair (height, width) [picture.load]"),
    ],
)
def test_wrong_sizes(size: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        picture.load(size=size)  # type: ignore[arg-type]


def test_wrong_path() -> None:
    with pytest.raises(TypeError, match=r"`path`=3, but should be None or the path of an image file \[picture\.load\]"):
        picture.load(3)  # type: ignore[arg-type]


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install equiv\[peers\]"):
        picture.load()
