"""Pictures as model inputs; by default the project's own, drawn by ``tools/draw_picture.py``.

Comparisons on noise alone can miss what only natural statistics bring out: neighbouring patches that are nearly equal,
strong edges, a few attention weights that carry everything.
"""

from __future__ import annotations

import io
import os
from importlib import resources
from pathlib import Path

import torch

from equiv.errors import check_int, message

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue in [0, 1]; the same numbers as in timm and torchvision
STD = (0.229, 0.224, 0.225)


def load(path: str | os.PathLike[str] | None = None, size: int | tuple[int, int] = 224) -> torch.Tensor:
    """A picture as a float32 tensor (1, 3, H, W), normalised as ImageNet models expect: ``(rgb/255 - MEAN) / STD``.

    Args:
        path: an image file that Pillow can read; ``None`` is the project's own picture. Transparency is dropped.
        size: ``(H, W)``, or one number for both. A picture of another size is resized to it (bicubic, antialiased),
            which does not keep the aspect ratio.

    Raises:
        ImportError: Pillow is not installed; it comes with ``pip install equiv[peers]``.
        OSError: the file cannot be read (``FileNotFoundError`` where there is none).
        ValueError: the file is not an image, or a broken or oversized one.

    Example:
        >>> load().shape
        torch.Size([1, 3, 224, 224])
        >>> load(size=(56, 28)).shape
        torch.Size([1, 3, 56, 28])
    """
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise ValueError(message("size", size, "an integer or a pair (height, width)", "picture.load"))
        height, width = (check_int(f"size[{i}]", side, "picture.load") for i, side in enumerate(size))
    else:
        height = width = check_int("size", size, "picture.load")
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(message("path", path, "None or the path of an image file", "picture.load"))

    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("pictures are read with Pillow, which is missing: pip install equiv[peers]") from error

    source = resources.files("equiv").joinpath("picture.png") if path is None else Path(path)
    data = io.BytesIO(source.read_bytes())
    try:
        with Image.open(data) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")  # upright, as the camera was held
    # Pillow's plugins raise many types on broken files: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        # Not by message(), which cuts long values: here the file's name comes last.
        reason = str(error).partition(" <_io.")[0]
        raise ValueError(f"`path`={str(source)!r}, but should be an image ({reason}) [picture.load]") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)

    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
    scaled = pixels.permute(2, 0, 1).contiguous().float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((scaled - mean) / std).unsqueeze(0)
