"""ViT, DeiT and Swin as transformers, timm and torchvision build them, from sizes alone: nothing is downloaded.

All of it is their code; here are the sizes, and the options by which the three compute the same function:

- LayerNorm's eps is 1e-6 in ViT and 1e-5 in Swin. transformers' ViT has 1e-12 unless told.
- No dropout and no stochastic depth (Swin has the latter in all three unless told), so training mode computes what
  evaluation mode does.
- DeiT is ViT here: transformers' ``DeiTModel`` always has a distillation token. No pooler.
- GELU by erf, biases in queries, keys and values, none in Swin's ``reduction``: the default everywhere.
- Shifted windows are masked by −100 in all three.

Known differences that no option removes, in Swin: maps that whole windows do not tile are padded after the shift by
timm, before it by transformers and torchvision; and a map not larger than the window in one direction only is shifted
in the other one by timm and torchvision, in neither by transformers. At 224×224 neither occurs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import re
from types import ModuleType
from typing import Any

import torch
from torch import nn

from equiv.errors import check_choice, check_divides, check_grid, check_int, message
from equiv.layout import tokens_to_map

LIBRARIES = ("transformers", "timm", "torchvision")
#: transformers had other names before; torchvision's belongs to the oldest torch that equiv supports.
OLDEST = {"transformers": (5, 9), "timm": (1, 0), "torchvision": (0, 24)}
INSTALL = "pip install equiv[peers]"


class Unavailable(Exception):
    """A library, or a model of it, cannot be had here; the message is the reason, as in "not compared with timm: …"."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What distinguishes one model of a family from another.

    Attributes:
        dim: channels, in Swin of the first stage.
        depths: number of blocks, in Swin of each stage.
        heads: of each stage.
        window: side of Swin's windows; ``None``: a ViT.
        patch: side of the patches.
        classes: outputs of the head.
    """

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int | None = None
    patch: int = 16
    classes: int = 1000


SIZES = {
    "vit_tiny": Sizes(192, (12,), (3,)),
    "vit_small": Sizes(384, (12,), (6,)),
    "vit_base": Sizes(768, (12,), (12,)),
    "vit_large": Sizes(1024, (24,), (16,)),
    "deit_tiny": Sizes(192, (12,), (3,)),
    "deit_small": Sizes(384, (12,), (6,)),
    "deit_base": Sizes(768, (12,), (12,)),
    "swin_tiny": Sizes(96, (2, 2, 6, 2), (3, 6, 12, 24), window=7, patch=4),
    "swin_small": Sizes(96, (2, 2, 18, 2), (3, 6, 12, 24), window=7, patch=4),
    "swin_base": Sizes(128, (2, 2, 18, 2), (4, 8, 16, 32), window=7, patch=4),
}


def build(library: str, name: str, *, image_size: int | tuple[int, int] = 224, **sizes: Any) -> LibraryModel:
    """The model ``name`` of ``library``, with the library's random weights, in float32 on the CPU.

    Args:
        library: ``"transformers"``, ``"timm"`` or ``"torchvision"``.
        name: of :data:`SIZES`.
        image_size: side of the images, or (height, width).
        sizes: fields of :class:`Sizes` that shall differ from the published model's.

    Returns:
        LibraryModel: images to logits, its blocks, and how to read their outputs.

    Raises:
        Unavailable: the library is missing, too old or does not import here, or does not have the model at this size.
        ValueError: unknown library, name or size.

    Example:
        >>> model = build("transformers", "vit_tiny", image_size=32, dim=24, depths=(2,), heads=(3,), classes=10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
        >>> [name for name, _ in model.blocks()]
        ['blocks.0', 'blocks.1']
    """
    call = "libraries.build"
    check_choice("library", library, LIBRARIES, call)
    check_choice("name", name, tuple(SIZES), call)
    grid = check_grid("image_size", (image_size, image_size) if isinstance(image_size, int) else image_size, call)
    if grid is None:
        raise TypeError(message("image_size", image_size, "an integer or a pair (height, width)", call))
    known = [field.name for field in dataclasses.fields(Sizes)]
    for option in sizes:
        if option not in known:
            raise ValueError(message("sizes", option, f"one of {', '.join(known)}", call))
    want = dataclasses.replace(SIZES[name], **sizes)
    if len(want.depths) != len(want.heads) or (want.window is None and len(want.depths) != 1):
        expected = "of one length, and for ViT of length 1"
        raise ValueError(message("sizes", (want.depths, want.heads), f"`depths` and `heads` {expected}", call))
    for field in ("dim", "patch", "classes"):
        check_int(field, getattr(want, field), call)
    for stage, heads in enumerate(want.heads):
        check_divides("heads", heads, "dim", want.dim << stage, call)
    if want.window is None:
        for side in grid:
            check_divides("patch", want.patch, "image_size", side, call)
    load(library)
    kind = ViT if want.window is None else Swin
    try:
        return kind(library, want, grid)
    except Unavailable:
        raise
    except Exception as error:  # any, as it is their code that may have changed
        reason = " ".join(str(error).split())
        raise Unavailable(f"{library} does not build {name} at {grid} ({type(error).__name__}: {reason})") from error


class LibraryModel(nn.Module):
    """A third-party model with one interface for all three libraries.

    Shapes: images ``(B, 3, H, W)`` give logits ``(B, classes)``.

    Attributes:
        library: whose it is.
        model: theirs, with their parameter names; :func:`equiv.models.weights.convert` knows them with and without the
            prefix ``model.`` that they have here.
        grid: height and width of the images.
    """

    def __init__(self, library: str, sizes: Sizes, grid: tuple[int, int], model: nn.Module) -> None:
        super().__init__()
        self.library, self.sizes, self.grid, self.model = library, sizes, grid, model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if self.library != "transformers":
            logits: torch.Tensor = self.model(x)
            return logits
        # Their written-out formula; but SDPA in float64, where the former casts to float32 for the softmax.
        config: Any = self.model.config
        config._attn_implementation = "sdpa" if x.dtype == torch.float64 else "eager"
        logits = self.model(x).logits
        return logits

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """The modules whose outputs are the residual stream after each block, in order, by our names for them."""
        raise NotImplementedError

    def read(self, name: str, output: Any) -> torch.Tensor:
        """What the block ``name`` gave for images of ``grid``: tokens ``(B, N, D)`` of a ViT, a map of a Swin."""
        raise NotImplementedError

    def trace(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the residual stream after each block by its name, of images ``x``.

        Example:
            >>> model = build("transformers", "vit_tiny", image_size=32, dim=24, depths=(1,), heads=(3,), classes=10)
            >>> {name: tuple(y.shape) for name, y in model.trace(torch.zeros(2, 3, 32, 32))[1].items()}
            {'blocks.0': (2, 5, 24)}
        """
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = self.read(name, output)

        handles = [module.register_forward_hook(functools.partial(keep, name)) for name, module in self.blocks()]
        try:
            logits = self(x)
        finally:
            for handle in handles:
                handle.remove()
        return logits, outputs


class ViT(LibraryModel):
    """ViT and DeiT; a block gives tokens ``(B, N, D)``, the class token first."""

    def __init__(self, library: str, sizes: Sizes, grid: tuple[int, int]) -> None:
        model: nn.Module
        if library == "transformers":
            from transformers.models.vit.modeling_vit import ViTConfig, ViTForImageClassification

            config = ViTConfig(
                image_size=grid,
                patch_size=sizes.patch,
                hidden_size=sizes.dim,
                num_hidden_layers=sizes.depths[0],
                num_attention_heads=sizes.heads[0],
                intermediate_size=4 * sizes.dim,
                layer_norm_eps=1e-6,
                num_labels=sizes.classes,
            )
            model = ViTForImageClassification(config)
        elif library == "timm":
            from timm.models.vision_transformer import VisionTransformer

            model = VisionTransformer(  # its eps is 1e-6
                img_size=grid,
                patch_size=sizes.patch,
                embed_dim=sizes.dim,
                depth=sizes.depths[0],
                num_heads=sizes.heads[0],
                num_classes=sizes.classes,
            )
        else:
            from torchvision.models.vision_transformer import VisionTransformer

            if grid[0] != grid[1]:
                raise Unavailable(f"torchvision's ViT takes square images only, not {grid}")
            model = VisionTransformer(  # its eps is 1e-6
                image_size=grid[0],
                patch_size=sizes.patch,
                hidden_dim=sizes.dim,
                num_layers=sizes.depths[0],
                num_heads=sizes.heads[0],
                mlp_dim=4 * sizes.dim,
                num_classes=sizes.classes,
            )
        super().__init__(library, sizes, grid, model)

    def blocks(self) -> list[tuple[str, nn.Module]]:
        path = {"transformers": "vit.layers", "timm": "blocks", "torchvision": "encoder.layers"}[self.library]
        return [(f"blocks.{n}", block) for n, block in enumerate(self.model.get_submodule(path).children())]

    def read(self, name: str, output: Any) -> torch.Tensor:
        tokens: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return tokens


class Swin(LibraryModel):
    """Swin; a block gives a map ``(B, C, H, W)``, whichever way the library has it."""

    def __init__(self, library: str, sizes: Sizes, grid: tuple[int, int]) -> None:
        model: nn.Module
        assert sizes.window is not None
        if library == "transformers":
            from transformers.models.swin.modeling_swin import SwinConfig, SwinForImageClassification

            config = SwinConfig(  # its eps is 1e-5
                image_size=grid,
                patch_size=sizes.patch,
                embed_dim=sizes.dim,
                depths=sizes.depths,
                num_heads=sizes.heads,
                window_size=sizes.window,
                drop_path_rate=0.0,
                num_labels=sizes.classes,
            )
            model = SwinForImageClassification(config)
        elif library == "timm":
            from timm.models.swin_transformer import SwinTransformer

            model = SwinTransformer(  # its eps is 1e-5
                img_size=grid,
                patch_size=sizes.patch,
                embed_dim=sizes.dim,
                depths=sizes.depths,
                num_heads=sizes.heads,
                window_size=sizes.window,
                drop_path_rate=0.0,
                num_classes=sizes.classes,
            )
        else:
            from torchvision.models.swin_transformer import SwinTransformer

            if grid[0] % sizes.patch or grid[1] % sizes.patch:
                raise Unavailable(f"torchvision's Swin cuts off what is no whole patch of {sizes.patch}: {grid}")
            model = SwinTransformer(  # its eps is 1e-5
                patch_size=[sizes.patch, sizes.patch],
                embed_dim=sizes.dim,
                depths=list(sizes.depths),
                num_heads=list(sizes.heads),
                window_size=[sizes.window, sizes.window],
                stochastic_depth_prob=0.0,
                num_classes=sizes.classes,
            )
        super().__init__(library, sizes, grid, model)

    def blocks(self) -> list[tuple[str, nn.Module]]:
        path = {
            "transformers": "swin.encoder.layers.{}.blocks",
            "timm": "layers.{}.blocks",
            "torchvision": "features.{}",  # stem, stage, merging, stage, …
        }[self.library]
        found = []
        for stage in range(len(self.sizes.depths)):
            blocks = self.model.get_submodule(path.format(2 * stage + 1 if self.library == "torchvision" else stage))
            found += [(f"layers.{stage}.blocks.{n}", block) for n, block in enumerate(blocks.children())]
        return found

    def read(self, name: str, output: Any) -> torch.Tensor:
        if self.library != "transformers":
            return output.movedim(-1, 1)  # (B, H, W, C)
        height, width = (-(-side // self.sizes.patch) for side in self.grid)
        for _ in range(int(name.split(".")[1])):
            height, width = (height + 1) // 2, (width + 1) // 2
        return tokens_to_map(output[0], height, width)


# Importing


def load(library: str) -> ModuleType:
    """Import ``transformers``, ``timm`` or ``torchvision``, or say why not.

    torchvision stops importing where its compiled operators do not load, as those of PyPI's Linux wheel (for CUDA)
    beside a CPU build of torch; timm needs torchvision, and transformers imports it wherever it is installed. These
    operators, of object detection, are in none of the models here. So they are then declared to torch, without code, by
    the names that torchvision's Python side expects; ``torchvision.ops`` goes on refusing to work.

    Raises:
        Unavailable: it is missing, too old, or fails to import.

    Example:
        >>> load("transformers").__name__
        'transformers'
    """
    try:
        if importlib.util.find_spec(library) is None:
            raise Unavailable(f"{library} is missing: {INSTALL}")
        _declare_missing_operators()
        module = importlib.import_module(library)
        if library == "transformers":  # which imports most of itself, and torchvision, only when asked for a model
            importlib.import_module("transformers.modeling_utils")
    except Unavailable:
        raise
    except Exception as error:  # any: what fails is code of theirs, or of what they import
        reason = " ".join(str(error).split())
        raise Unavailable(f"{library} does not import here ({type(error).__name__}: {reason})") from error
    version: str = module.__version__
    oldest = OLDEST[library]
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < oldest:
        raise Unavailable(f"{library} {version} is older than {'.'.join(map(str, oldest))}: {INSTALL}")
    return module


@functools.cache
def _declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision's Python side expects, if its compiled side does not load.

    The result is cached because the declarations end with it.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = pathlib.Path(spec.submodule_search_locations[0])
    for compiled in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
        return None
    source = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
    names = re.findall(r"register_fake\(\s*\"torchvision::(\w+)\"", source)
    operators = torch.library.Library("torchvision", "DEF")
    for name in names:
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators
